"""The background process within this one: outbox, tasks, recovery, with the clock turned up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from procrastinate import PsycopgConnector
from starlette.responses import Response

from api.services import Services
from core.ids import encode
from killatamata.background import WORKERS, Background
from killatamata.sweeps import Sweep
from tests.leasing import until_true
from tests.webhooks.receiver import Got, receiving
from tests.webhooks.scene import FAST, Scene, settings
from webhooks.queue import DELIVER, Deliveries, new_app
from webhooks.sending import SHARE


@asynccontextmanager
async def background(scene: Scene, folder: Path, *sweeps: Sweep) -> AsyncIterator[Background]:
    """A background process with connections of its own."""
    made = Background(Services.of(settings(scene.database.url, folder)), schedule=FAST, sweeps=sweeps)
    running = asyncio.create_task(made.run())
    try:
        yield made
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        await asyncio.wait({running})


@asynccontextmanager
async def deliveries(scene: Scene) -> AsyncIterator[Deliveries]:
    """The outbox alone, without a worker."""
    app = new_app(scene.database.url, missed_seconds=0)
    async with app.open_async():
        yield Deliveries(app, scene.database, scene.sender(), FAST)


async def delivered(scene: Scene, count: int) -> None:
    await until_true(
        lambda: scene.database.fetch_value("SELECT count(*) = $1 FROM delivery WHERE state = 'delivered'", count),
        f"{count} deliveries",
        60,
    )


async def tasks(scene: Scene, status: str = "todo") -> int:
    found: int = await scene.database.fetch_value(
        "SELECT count(*) FROM procrastinate_jobs WHERE task_name = $1 AND status::text = $2", DELIVER, status
    )
    return found


async def test_from_a_jobs_end_to_its_receiver_and_the_log(scene: Scene, tmp_path: Path) -> None:
    account, secret = await scene.account()
    async with receiving(500, 200, secrets=[secret]) as receiver, background(scene, tmp_path):
        job = await scene.succeeded(account, receiver.url)
        await delivered(scene, 1)
        (delivery,) = await scene.services.webhooks.deliveries(account, job.id)
        assert [each.status for each in delivery.attempts] == [500, 200]
        assert {got.notice["data"]["jobId"] for got in receiver.got} == {encode("job", job.id)}
        async with scene.database.transaction() as connection:
            again = await scene.services.webhooks.redeliver(connection, account, job.id)
        await delivered(scene, 2)
        assert receiver.got[-1].id == encode("msg", again.id) != receiver.got[0].id
        listed = await scene.services.webhooks.deliveries(account, job.id)
        assert [each.id for each in listed] == [again.id, delivery.id]


async def test_two_processes_deliver_each_notice_once(scene: Scene, tmp_path: Path) -> None:
    account, secret = await scene.account()
    async with receiving(secrets=[secret]) as receiver, background(scene, tmp_path), background(scene, tmp_path):
        jobs = [await scene.succeeded(account, receiver.url) for _ in range(40)]
        await delivered(scene, len(jobs))
        counts = Counter(got.notice["data"]["jobId"] for got in receiver.got)
    assert counts == {encode("job", job.id): 1 for job in jobs}


async def test_receivers_that_never_answer_do_not_hold_up_the_others(scene: Scene, tmp_path: Path) -> None:
    (account, _), (other, _) = await scene.account(), await scene.account()
    open_now, most = 0, 0

    async def silence(_: Got) -> Response:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        try:
            await asyncio.sleep(1)
        finally:
            open_now -= 1
        return Response(status_code=500)

    for _ in range(3 * SHARE):
        await scene.succeeded(account, "")
    async with receiving(silence) as silent, receiving() as quick:
        await scene.database.execute("UPDATE delivery SET url = $1", silent.url)
        async with background(scene, tmp_path):
            await until_true(lambda: open_now == SHARE, "the share under way at once")
            await scene.succeeded(other, quick.url)
            await until_true(lambda: len(quick.got) == 1, "the notice of the quick one")
            await until_true(lambda: len({got.id for got in silent.got}) == 3 * SHARE, "a try of each")
    assert most == SHARE


async def test_sweeps_do_not_wait_for_receivers(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKERS, DELIVER, 1)
    account, _ = await scene.account()
    answered = ran = 0

    async def sweep(_: Services) -> None:
        nonlocal ran
        ran += 1

    async def once_swept(_: Got) -> Response:
        nonlocal answered
        before = ran
        await until_true(lambda: ran >= before + 2, "two sweeps while the one slot is taken")
        answered += 1
        return Response()

    async with receiving(once_swept) as receiver, background(scene, tmp_path, Sweep("often", "* * * * * *", sweep)):
        await scene.succeeded(account, receiver.url)
        await until_true(lambda: answered == 1, "the answer")


async def test_a_relay_that_dies_between_task_and_mark_leaves_neither(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, _ = await scene.account()
    await scene.succeeded(account, "https://example.com/hook")
    async with deliveries(scene) as outbox:
        with monkeypatch.context() as patch:
            patch.setattr("webhooks.queue._CARRIED", "SELECT 1 / 0 WHERE %s::bigint[] IS NOT NULL")
            with pytest.raises(Exception, match="division by zero"):
                await outbox.relay()
        assert await tasks(scene) == 0
        assert await scene.database.fetch_value("SELECT bool_and(relayed_at IS NULL) FROM delivery")
        assert (await outbox.relay(), await outbox.relay()) == (1, 0)
        assert await tasks(scene) == 1


async def test_relays_at_once_share_the_outbox(scene: Scene) -> None:
    account, _ = await scene.account()
    for _ in range(12):
        await scene.succeeded(account, "https://example.com/hook")
    async with deliveries(scene) as one, deliveries(scene) as two:
        counts = await asyncio.gather(*(outbox.relay() for outbox in (one, two, one, two)))
    assert sum(counts) == await tasks(scene) == 12
    assert await scene.database.fetch_value(
        "SELECT bool_and(args ->> 'delivery_id' = delivery.id::text) AND count(*) = 12"
        " FROM delivery JOIN procrastinate_jobs task ON task.id = carrier"
    )


async def test_a_delivery_whose_task_is_lost_is_relayed_again(scene: Scene) -> None:
    account, _ = await scene.account()
    job = await scene.succeeded(account, "https://example.com/hook")
    kept = await scene.succeeded(account, "https://example.com/hook")
    async with deliveries(scene) as outbox:
        await outbox.relay()
        overdue = "UPDATE delivery SET next_attempt_at = clock_timestamp() - interval '1 hour'"
        await scene.database.execute(overdue)
        await scene.database.execute(
            "DELETE FROM procrastinate_jobs WHERE id = (SELECT carrier FROM delivery WHERE job_id = $1)", job.id
        )
        await outbox.recover()
        waiting = await scene.database.fetch("SELECT job_id FROM delivery WHERE relayed_at IS NULL")
        assert [row["job_id"] for row in waiting] == [job.id], "a task that only waits is not lost"
        assert await outbox.relay() == 1
        await scene.database.execute(overdue)
        await scene.database.execute("UPDATE procrastinate_jobs SET status = 'failed'")
        await outbox.recover()
        assert await outbox.relay() == 2
    assert (await scene.delivery(kept)).state == "pending"


async def test_the_task_of_a_dead_worker_is_taken_up(scene: Scene) -> None:
    account, _ = await scene.account()
    await scene.succeeded(account, "https://example.com/hook")
    async with deliveries(scene) as outbox:
        await outbox.relay()
        await scene.database.execute(
            "WITH dead AS (INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour')"
            " RETURNING id) UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT id FROM dead)"
        )
        await asyncio.gather(*(outbox.recover() for _ in range(3)))
        assert (await tasks(scene), await tasks(scene, "doing")) == (1, 0)


async def test_lost_connections_do_not_stop_it(scene: Scene, tmp_path: Path) -> None:
    account, _ = await scene.account()
    ours = await scene.database.fetch("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    async with receiving() as receiver, background(scene, tmp_path):
        await scene.succeeded(account, receiver.url)
        await delivered(scene, 1)
        for count in (2, 3):
            ended = await scene.database.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> ALL ($1)",
                [row["pid"] for row in ours],
            )
            assert len(ended) >= 3
            await scene.succeeded(account, receiver.url)
            await delivered(scene, count)


async def test_a_sweep_is_run_and_one_that_breaks_does_not_end_the_rest(scene: Scene, tmp_path: Path) -> None:
    ran: list[str] = []

    async def whole(services: Services) -> None:
        assert services.database.pool
        ran.append("whole")

    async def broken(_: Any) -> None:
        ran.append("broken")
        raise ZeroDivisionError

    every_second = "* * * * * *"
    async with background(scene, tmp_path, Sweep("whole", every_second, whole), Sweep("broken", every_second, broken)):
        await until_true(lambda: ran.count("whole") >= 2 and ran.count("broken") >= 2, "two runs of each")


async def test_the_log_of_tasks_is_not_kept_for_what_went_well(scene: Scene, tmp_path: Path) -> None:
    account, _ = await scene.account()
    async with receiving() as receiver, background(scene, tmp_path):
        await scene.succeeded(account, receiver.url)
        await delivered(scene, 1)
        await until_true(lambda: gone(scene), "the task's end")


async def gone(scene: Scene) -> bool:
    return not any([await tasks(scene, status) for status in ("todo", "doing", "succeeded", "failed")])


def test_connections_are_direct() -> None:
    connector = new_app("postgresql:///x", missed_seconds=0).connector
    assert isinstance(connector, PsycopgConnector)
