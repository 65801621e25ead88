"""The queue's snapshot: places in line and waiting work, read once for all who ask."""

from __future__ import annotations

import asyncio

import pytest

from jobs import snapshot
from jobs.snapshot import Queues
from tests.jobs.world import World


async def test_places_follow_the_order_of_claims(world: World) -> None:
    account = await world.account()
    waiting = await world.submit_many(account, 3)
    positions = (await Queues(world.database).snapshot()).positions
    assert [positions[job] for job in waiting] == [1, 2, 3]
    (lease,) = await world.claim(1)
    positions = (await Queues(world.database).snapshot()).positions
    assert (lease.job_id in positions, [positions[job] for job in waiting[1:]]) == (False, [1, 2])


async def test_parked_jobs_have_no_place_yet(world: World) -> None:
    account = await world.account(concurrency=1)
    first, _ = await world.submit_many(account, 2)
    assert (await Queues(world.database).snapshot()).positions == {first: 1}


async def test_the_end_of_a_long_line_is_told_no_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "POSITIONS_KNOWN", 2)
    jobs = await world.submit_many(await world.account(), 3)
    assert set((await Queues(world.database).snapshot()).positions) == set(jobs[:2])


async def test_a_fresh_snapshot_is_shared_and_an_old_one_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = Queues(world.database)
    first = await queues.snapshot()
    await world.submit_many(await world.account(), 1)
    assert all(each is first for each in await asyncio.gather(*(queues.snapshot() for _ in range(5))))
    monkeypatch.setattr(snapshot, "FRESH_SECONDS", 0.0)
    assert len((await queues.snapshot()).positions) == 1
