from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from starlette.responses import RedirectResponse

from core.clock import now, rfc3339
from core.ids import encode
from jobs.models import Job
from killatamata.background import notice
from tests.leasing import until_true
from tests.webhooks.receiver import never, receiving
from tests.webhooks.scene import CARRIER, FAST, Scene
from webhooks.sending import BROKEN, SHARE, UNANSWERED, Sender, TryAgain
from webhooks.store import Delivery


async def tried(sender: Sender, scene: Scene, job: Job, times: int = 1) -> Delivery:
    """The job's delivery after that many tries, each of which must ask for another but the last."""
    delivery = await scene.carried(job)
    for _ in range(times - 1):
        with pytest.raises(TryAgain):
            await sender.attempt(delivery, CARRIER)
        await scene.due(delivery)
    await sender.attempt(delivery, CARRIER)
    return await scene.delivery(job)


def came(delivery: Delivery) -> list[tuple[int | None, str | None]]:
    return [(each.status, each.error) for each in delivery.attempts]


async def test_a_notice_says_what_get_says_and_its_signature_verifies(scene: Scene) -> None:
    account, secret = await scene.account()
    async with receiving(204, secrets=[secret]) as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await tried(scene.sender(), scene, job)
    (got,) = receiver.got
    assert (delivery.state, delivery.next_attempt_at, came(delivery)) == ("delivered", None, [(204, None)])
    assert got.headers["content-type"] == "application/json"
    assert got.id == encode("msg", delivery.id)
    assert job.finished_at is not None
    assert (got.notice["type"], got.notice["timestamp"]) == ("job.succeeded", rfc3339(job.finished_at))
    answer = json.loads(notice(scene.services)(job))
    said = got.notice["data"]
    assert {**said, "outputs": [], "downloadableOutputUrls": []} == {
        **answer,
        "outputs": [],
        "downloadableOutputUrls": [],
    }
    assert said["downloadableOutputUrls"][0].startswith("https://api.example.test/")
    assert said["outputs"][0]["expiresAt"] > rfc3339(now())


@pytest.mark.parametrize(("state", "ended"), [("failed", "job.failed"), ("cancelled", "job.cancelled")])
async def test_every_end_is_told(scene: Scene, state: str, ended: str) -> None:
    account, secret = await scene.account()
    async with receiving(secrets=[secret]) as receiver:
        job = await scene.world.submit(account, webhook_url=receiver.url)
        if state == "cancelled":
            await scene.world.jobs.cancel(account, job.id)
        else:
            await scene.database.execute("UPDATE job SET start_by = clock_timestamp() WHERE id = $1", job.id)
            assert await scene.database.fetch_value("SELECT start_timeout()") == job.id
        await tried(scene.sender(), scene, job)
    (got,) = receiver.got
    assert (got.notice["type"], got.notice["data"]["status"]) == (ended, state)
    assert got.notice["data"]["billing"]["state"] == "released"


async def test_a_receiver_that_broke_down_is_told_again_under_the_same_id(scene: Scene) -> None:
    account, secret = await scene.account()
    async with receiving(500, 503, 200, secrets=[secret]) as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await tried(scene.sender(), scene, job, times=3)
    assert delivery.state == "delivered"
    assert came(delivery) == [(500, None), (503, None), (200, None)]
    assert [each.number for each in delivery.attempts] == [1, 2, 3]
    assert len({got.id for got in receiver.got}) == 1
    assert all(got.notice["data"]["id"] == encode("job", job.id) for got in receiver.got)
    row = await scene.database.fetch_row("SELECT * FROM delivery_attempt WHERE number = 1")
    assert "secret of the receiver" not in str(row), "what a receiver says is not kept"


async def test_a_receiver_that_never_answers_costs_one_timeout(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving(never, 200) as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await tried(scene.sender(timeout=0.3), scene, job, times=2)
    (first, second) = came(delivery)
    assert first[0] is None
    assert first[1] == "The URL did not finish its answer within 0.3 seconds."
    assert second == (200, None)


async def test_a_receiver_that_is_down_is_a_failed_try(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving() as receiver:
        url = receiver.url
    job = await scene.succeeded(account, url)
    delivery = await scene.carried(job)
    with pytest.raises(TryAgain) as again:
        await scene.sender().attempt(delivery, CARRIER)
    found = await scene.delivery(job)
    assert (found.state, found.next_attempt_at) == ("pending", again.value.at)
    assert again.value.tries == 1
    assert "cannot be reached" in str(came(found))


async def test_a_redirect_is_a_failed_try_and_is_not_followed(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving() as inside, receiving(lambda _: RedirectResponse(inside.url, 307), 200) as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await tried(scene.sender(), scene, job, times=2)
    assert came(delivery) == [(307, None), (200, None)]
    assert inside.got == []


async def test_gone_ends_the_delivery_at_once(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving(410) as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await tried(scene.sender(), scene, job)
    assert (delivery.state, came(delivery)) == ("failed", [(410, None)])
    assert delivery.ended_at is not None


async def test_the_last_try_ends_it(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving(500) as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await tried(scene.sender(), scene, job, times=FAST.tries)
        assert (delivery.state, delivery.next_attempt_at, len(delivery.attempts)) == ("failed", None, FAST.tries)
        await scene.sender().attempt(delivery.id, CARRIER)
    assert len(receiver.got) == FAST.tries


async def test_a_url_that_leads_inside_by_now_is_not_reached(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving() as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await scene.carried(job)
        with pytest.raises(TryAgain):
            await scene.sender(allow="").attempt(delivery, CARRIER)
    assert receiver.got == []
    ((status, error),) = came(await scene.delivery(job))
    assert status is None
    assert error is not None
    assert "127.0.0.1" not in error


async def test_a_rotated_secret_signs_beside_the_new_one_for_a_day(scene: Scene) -> None:
    account, old = await scene.account()
    async with scene.database.transaction() as connection:
        new = (await scene.services.webhooks.rotate(connection, account)).value
    async with receiving(500, 200, secrets=[old, new]) as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await scene.carried(job)
        with pytest.raises(TryAgain):
            await scene.sender().attempt(delivery, CARRIER)
        await scene.due(delivery)
        await scene.database.execute("UPDATE webhook_secret SET rotated_at = rotated_at - interval '24 hours'")
        await scene.sender().attempt(delivery, CARRIER)
    during, after = receiver.got
    assert None not in during.notices
    assert [found is not None for found in after.notices] == [False, True]


async def test_a_try_that_comes_too_early_waits(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving() as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await scene.carried(job)
        await scene.database.execute("UPDATE delivery SET next_attempt_at = clock_timestamp() + interval '1 hour'")
        with pytest.raises(TryAgain) as early:
            await scene.sender().attempt(delivery, CARRIER)
    assert early.value.at == (await scene.delivery(job)).next_attempt_at
    assert receiver.got == []


async def test_only_the_task_that_carries_a_delivery_tries_it(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving() as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await scene.carried(job)
        await scene.sender().attempt(delivery, CARRIER + 1)
        await scene.sender().attempt(UUID(int=0), CARRIER)
    assert receiver.got == []
    assert (await scene.delivery(job)).state == "pending"


async def test_two_at_once_are_one_try(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving() as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await scene.carried(job)
        ends = await asyncio.gather(
            *(scene.sender().attempt(delivery, CARRIER) for _ in range(8)), return_exceptions=True
        )
    assert all(end is None or isinstance(end, TryAgain) for end in ends), ends
    assert len(receiver.got) == 1


async def test_a_try_broken_off_by_this_processs_end_does_not_count(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving(never, 200) as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await scene.carried(job)
        trying = asyncio.create_task(scene.sender(lease=60).attempt(delivery, CARRIER))
        while not receiver.got:
            await asyncio.sleep(0.01)
        assert came(await scene.delivery(job)) == [(None, UNANSWERED)]
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying
        assert came(await scene.delivery(job)) == []
        await scene.sender().attempt(delivery, CARRIER)
        assert came(await scene.delivery(job)) == [(200, None)]


async def test_tries_that_ended_with_their_process_count(scene: Scene) -> None:
    account, _ = await scene.account()
    async with receiving() as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await scene.carried(job)
        for number in range(1, FAST.tries + 1):
            await scene.database.execute(
                "INSERT INTO delivery_attempt VALUES ($1, $2, clock_timestamp(), 0, NULL, $3)",
                delivery,
                number,
                UNANSWERED,
            )
        await scene.sender().attempt(delivery, CARRIER)
    assert (await scene.delivery(job)).state == "failed"
    assert receiver.got == []


async def test_a_notice_that_cannot_be_made_is_a_failed_try_too(scene: Scene) -> None:
    def broken(_: Any) -> str:
        raise ZeroDivisionError

    account, _ = await scene.account()
    async with receiving() as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await scene.carried(job)
        with pytest.raises(ZeroDivisionError):
            await scene.sender(render=broken).attempt(delivery, CARRIER)
        found = await scene.delivery(job)
        assert (found.state, came(found)) == ("pending", [(None, BROKEN)])
        assert found.next_attempt_at is not None
        await scene.due(delivery)
        await scene.sender().attempt(delivery, CARRIER)
    assert len(receiver.got) == 1


async def test_what_was_received_stays_delivered(scene: Scene) -> None:
    account, _ = await scene.account()
    slow = asyncio.Event()

    async def late(_: Any) -> Any:
        await slow.wait()
        return RedirectResponse("/", 302)

    async with receiving(late, 200) as receiver:
        job = await scene.succeeded(account, receiver.url)
        delivery = await scene.carried(job)
        first = asyncio.create_task(scene.sender(delays=()).attempt(delivery, CARRIER))
        while not receiver.got:
            await asyncio.sleep(0.01)
        await scene.due(delivery)
        await scene.sender().attempt(delivery, CARRIER)
        slow.set()
        await first
    found = await scene.delivery(job)
    assert (found.state, came(found)) == ("delivered", [(302, None), (200, None)])


async def test_a_try_beyond_the_accounts_share_comes_back_and_does_not_count(scene: Scene) -> None:
    (account, _), (other, _) = await scene.account(), await scene.account()
    sender = scene.sender(timeout=60.0, lease=61.0)
    async with receiving(never) as silent, receiving() as quick:
        under_way = []
        for _ in range(SHARE):
            delivery = await scene.carried(await scene.succeeded(account, silent.url))
            under_way.append(asyncio.create_task(sender.attempt(delivery, CARRIER)))
        await until_true(lambda: len(silent.got) == SHARE, "the share under way")
        job = await scene.succeeded(account, quick.url)
        waiting = await scene.carried(job)
        with pytest.raises(TryAgain) as again:
            await sender.attempt(waiting, CARRIER)
        await sender.attempt(waiting, CARRIER + 1)
        found = await scene.delivery(job)
        assert (found.state, found.attempts, found.next_attempt_at) == ("pending", [], again.value.at)
        assert again.value.tries == FAST.tries, "it stands behind everybody's tries"
        elsewhere = await scene.succeeded(other, quick.url)
        assert (await tried(sender, scene, elsewhere)).state == "delivered"
        for task in under_way:
            task.cancel()
        await asyncio.wait(under_way)
        assert (await tried(sender, scene, job)).state == "delivered"
