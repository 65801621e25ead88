from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from core.errors import NotFound, WrongState
from core.ids import uuid7
from jobs.statistics import _DELIVERIES
from tests.webhooks.scene import CARRIER, Scene
from webhooks.store import MOST_LISTED

URL = "https://example.com/hook"
ENDED = "UPDATE delivery SET state = 'failed', ended_at = clock_timestamp() WHERE job_id = $1 AND ended_at IS NULL"


async def test_a_secret_is_made_once_however_many_ask(scene: Scene) -> None:
    account = await scene.world.account()
    secrets = await asyncio.gather(*(scene.services.webhooks.secret(account) for _ in range(20)))
    assert len({secret.value for secret in secrets}) == 1
    assert {secret.previous for secret in secrets} == {None}
    assert await scene.database.fetch_value("SELECT generation FROM webhook_secret") == 1


async def test_every_rotation_is_a_new_secret_and_keeps_only_the_one_before(scene: Scene) -> None:
    account, first = await scene.account()
    webhooks = scene.services.webhooks
    async with scene.database.transaction() as connection:
        second = await webhooks.rotate(connection, account)
    assert second.in_force == [second.value, first]
    assert second.previous_until == second.rotated_at + timedelta(hours=24)
    assert await webhooks.secret(account) == second
    async with scene.database.transaction() as connection:
        third = await webhooks.rotate(connection, account)
    assert third.in_force == [third.value, second.value]
    assert len({first, second.value, third.value}) == 3


async def test_a_rotation_that_is_rolled_back_was_none(scene: Scene) -> None:
    account, first = await scene.account()
    async with scene.database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert (await scene.services.webhooks.rotate(connection, account)).value != first
        await transaction.rollback()
    assert (await scene.services.webhooks.secret(account)).in_force == [first]


async def test_a_rotation_before_any_read_makes_the_first(scene: Scene) -> None:
    account = await scene.world.account()
    async with scene.database.transaction() as connection:
        made = await scene.services.webhooks.rotate(connection, account)
    assert made.previous is None
    assert await scene.services.webhooks.secret(account) == made


async def test_who_may_redeliver_what(scene: Scene) -> None:
    account, other = await scene.world.account(), await scene.world.account()
    job = await scene.succeeded(account, URL)
    silent = await scene.world.submit(account)
    waiting = await scene.world.submit(account, webhook_url=URL)
    webhooks = scene.services.webhooks
    async with scene.database.transaction() as connection:
        with pytest.raises(WrongState, match="still pending"):
            await webhooks.redeliver(connection, account, job.id)
        await connection.execute(ENDED, job.id)
        made = await webhooks.redeliver(connection, account, job.id)
        assert (made.type, made.url, made.state) == ("job.succeeded", URL, "pending")
        for who, job_id in ((other, job.id), (account, silent.id), (account, uuid7())):
            with pytest.raises(NotFound):
                await webhooks.redeliver(connection, who, job_id)
        with pytest.raises(WrongState, match="has not ended"):
            await webhooks.redeliver(connection, account, waiting.id)
    for who, job_id in ((other, job.id), (account, uuid7())):
        with pytest.raises(NotFound):
            await webhooks.deliveries(who, job_id)
    assert await webhooks.deliveries(account, silent.id) == []


async def test_redeliveries_at_once_leave_one_pending(scene: Scene) -> None:
    account = await scene.world.account()
    job = await scene.succeeded(account, URL)
    await scene.database.execute(ENDED, job.id)

    async def redeliver() -> bool:
        async with scene.database.transaction() as connection:
            try:
                await scene.services.webhooks.redeliver(connection, account, job.id)
            except WrongState:
                return False
            return True

    assert sum(await asyncio.gather(*(redeliver() for _ in range(6)))) == 1
    assert len(await scene.services.webhooks.deliveries(account, job.id)) == 2


async def test_the_list_is_newest_first_and_has_an_end(scene: Scene) -> None:
    account = await scene.world.account()
    job = await scene.succeeded(account, URL)
    made = []
    for _ in range(MOST_LISTED + 5):
        async with scene.database.transaction() as connection:
            await connection.execute(ENDED, job.id)
            made.append((await scene.services.webhooks.redeliver(connection, account, job.id)).id)
    listed = await scene.services.webhooks.deliveries(account, job.id)
    assert [each.id for each in listed] == made[:-101:-1]


async def test_old_deliveries_go_with_their_tries_and_pending_ones_stay(scene: Scene) -> None:
    account = await scene.world.account()
    jobs = [await scene.succeeded(account, URL) for _ in range(7)]
    for job in jobs:
        delivery = await scene.carried(job)
        await scene.database.execute(
            "INSERT INTO delivery_attempt VALUES ($1, 1, clock_timestamp() - interval '40 days', 0, 500, NULL)",
            delivery,
        )
    ended = "UPDATE delivery SET state = 'failed', ended_at = clock_timestamp() - $2::interval WHERE job_id = ANY ($1)"
    await scene.database.execute(ended, [job.id for job in jobs[:5]], timedelta(days=30, minutes=1))
    await scene.database.execute(ended, [jobs[5].id], timedelta(days=29))
    assert await scene.services.webhooks.remove_old(30, batch=2) == 5
    left = await scene.database.fetch(
        "SELECT job_id, number, carrier FROM delivery JOIN delivery_attempt ON delivery_id = delivery.id"
    )
    assert {row["job_id"] for row in left} == {job.id for job in jobs[5:]}
    assert {(row["number"], row["carrier"]) for row in left} == {(1, CARRIER)}
    assert await scene.services.webhooks.remove_old(30, batch=2) == 0


async def test_pending_deliveries_are_counted_without_reading_those_that_ended(scene: Scene) -> None:
    account = await scene.world.account()
    job = await scene.succeeded(account, URL)
    await scene.database.execute(
        "INSERT INTO delivery (id, job_id, account_id, type, url, state, ended_at)"
        " SELECT gen_random_uuid(), $1, $2, 't', 'u', 'failed', clock_timestamp() FROM generate_series(1, 3000)",
        job.id,
        account,
    )
    await scene.database.execute("ANALYZE delivery")
    plan = await scene.database.fetch(f"EXPLAIN {_DELIVERIES}")
    text = "\n".join(row[0] for row in plan)
    assert "delivery_pending" in text, text
