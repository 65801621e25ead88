"""Jobs that are settled at once share a transaction, and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import asyncpg
import pytest

from core.database import patiently
from jobs.leases import Leases, Outcome
from tests.jobs.invariants import broken
from tests.jobs.world import DONE, FAILURE, World


async def test_jobs_that_are_settled_at_once_end_each_in_its_own_way(world: World) -> None:
    await world.slots(gpu=9)
    first, second = await world.account(), await world.account()
    for account in (first, second) * 4:
        await world.submit(account, webhook_url="https://example.com/hook")
    claimed = await world.claim(8)
    leases = Leases(world.database)
    late = replace(claimed[4], fence=claimed[4].fence - 1)
    await world.jobs.cancel(claimed[5].account_id, claimed[5].job_id)
    poison = Outcome(upstream={"note": "\x00"})
    ends = await asyncio.gather(
        leases.settle(claimed[0], "succeeded", DONE),
        leases.settle(claimed[1], "succeeded", DONE),
        leases.settle(claimed[2], "succeeded", DONE),
        leases.settle(claimed[2], "succeeded", DONE),
        leases.settle(late, "succeeded", DONE),
        leases.settle(claimed[5], "succeeded", DONE),
        leases.settle(claimed[3], "failed", Outcome(), FAILURE),
        leases.settle(claimed[6], "cancelled", Outcome(stopped_at_step=1)),
        leases.settle(claimed[7], "succeeded", poison),
        return_exceptions=True,
    )
    assert ends[:2] == ["succeeded"] * 2
    assert {ends[2], ends[3]} == {"succeeded", "stale"}
    assert ends[4:8] == ["stale", "cancelled", "failed", "queued"]
    assert isinstance(ends[8], asyncpg.PostgresError)
    assert [(await world.reread(lease)).state for lease in claimed] == [
        *["succeeded"] * 3,
        *("failed", "running", "cancelled", "queued", "running"),
    ]
    assert await broken(world.database) == []


async def test_settlements_share_transactions_and_a_lost_database_is_everybodys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.slots(gpu=40)
    await world.submit_many(await world.account(concurrency=40), 40)
    claimed, leases = await world.claim(40), Leases(world.database)
    fetch_value, asked = world.database.fetch_value, []

    async def counted(query: str, *values: Any) -> Any:
        asked.append(len(values[0]))
        if len(asked) == 1:
            raise ConnectionResetError
        return await fetch_value(query, *values)

    monkeypatch.setattr(world.database, "fetch_value", counted)
    calls = [patiently(partial(leases.settle, lease, "succeeded", DONE)) for lease in claimed]
    assert set(await asyncio.gather(*calls)) == {"succeeded"}
    assert (asked[:2], sum(asked[2:])) == ([32, 8], 32)
    assert len(asked) < 10


async def test_a_row_that_stays_locked_holds_up_its_own_account_only(world: World) -> None:
    await world.slots(gpu=9)
    stuck, free = await world.account(), await world.account()
    await world.submit_many(stuck, 2)
    await world.submit_many(free, 2)
    claimed, leases = await world.claim(4), Leases(world.database)
    async with world.database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM wallet WHERE account_id = $1 FOR UPDATE", stuck)
        settling = [asyncio.create_task(leases.settle(lease, "succeeded", DONE)) for lease in claimed]
        for lease, task in zip(claimed, settling, strict=True):
            if lease.account_id == free:
                assert await task == "succeeded"
        waiting = [task.done() for lease, task in zip(claimed, settling, strict=True) if lease.account_id == stuck]
        assert waiting == [False, False]
        await transaction.rollback()
    assert await asyncio.gather(*settling) == ["succeeded"] * 4
