"""What is left when somebody dies, waits or breaks at a bad moment: nothing stays so for ever."""

from __future__ import annotations

import asyncio

from jobs import pools
from jobs.leases import drain
from tests.jobs.world import PRICE, World


async def test_a_stage_that_begins_during_a_hand_back_is_not_left_open(world: World) -> None:
    await world.submit(await world.account())
    lease = await world.claim_one()
    async with world.database.transaction() as connection:
        await connection.fetchval("SELECT stage_begin($1, $2, 'gpu')", lease.job_id, lease.fence)
        back = asyncio.create_task(world.leases.hand_back(lease, "handed_back", counts=False, begun=False))
        await asyncio.sleep(0.2)
        assert not back.done()
    assert await back == "queued"
    assert (await world.reread(lease)).stages == []


async def test_a_claim_that_waits_does_not_hold_up_the_beat(world: World) -> None:
    await world.submit(await world.account())
    async with world.database.transaction() as connection:
        await connection.execute("SELECT FROM pool WHERE name = 'gpu' FOR UPDATE")
        claim = asyncio.create_task(world.claim())
        await asyncio.sleep(0.2)
        await asyncio.wait_for(world.leases.beat(world.session), 5)
        assert not claim.done()
    assert len(await claim) == 1


async def test_a_drain_that_nobody_took_back_ends_by_itself(world: World) -> None:
    await world.submit(await world.account())
    await drain(world.database, 0)
    assert await world.claim() == []
    await world.database.execute("UPDATE session SET drain_by = clock_timestamp() - interval '5 min 1 s'")
    assert await world.leases.beat(world.session) is None
    assert len(await world.claim()) == 1


async def test_a_drain_of_one_host_leaves_the_others_working(world: World) -> None:
    await world.submit(await world.account())
    there = await world.leases.open_session("there:1")
    await drain(world.database, 0, host="there")
    assert await world.leases.beat(there) is not None
    assert len(await world.claim()) == 1


async def test_jobs_of_a_pool_that_left_the_fleet_fail_after_an_hour(world: World) -> None:
    chained = await world.submit(await world.account(), pools=("gpu", "cpu"))
    await world.leases.segment_end(await world.claim_one(), {})
    await pools.declare(world.database, frozenset({"gpu"}))
    assert await world.leases.end_retired() == 0
    await world.database.execute("UPDATE pool SET updated_at = updated_at - interval '61 min'")
    assert await world.leases.end_retired() == 1
    failed = await world.reread(chained)
    assert failed.failure is not None
    assert (failed.state, failed.failure["code"], failed.hold_state) == ("failed", "task_unavailable", "released")
    await pools.declare(world.database, frozenset({"gpu", "cpu"}))


async def test_a_row_that_breaks_a_part_of_the_sweep_leaves_the_others_working(world: World) -> None:
    broken = await world.submit(await world.account(), start_timeout_seconds=0)
    due = await world.submit(await world.account(), cancel_after_seconds=0)
    await world.database.execute("UPDATE wallet SET held = 0 WHERE account_id = $1", broken.account_id)
    await world.leases.sweep(most_running=20)
    assert (await world.reread(due)).state == "cancelled"
    await world.database.execute("UPDATE wallet SET held = $2 WHERE account_id = $1", broken.account_id, PRICE)
    await world.leases.sweep(most_running=20)
    assert (await world.reread(broken)).state == "failed"
