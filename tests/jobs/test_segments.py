"""Jobs of several segments: each lease covers one, and begun work goes first."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from jobs.models import Lease
from tests.jobs.world import World, ids

CHAIN = ("gpu", "cpu")


async def first_ended(world: World) -> Lease:
    """A job of two segments whose first has ended."""
    await world.submit(await world.account(), pools=CHAIN)
    lease = await world.claim_one()
    assert await world.leases.segment_end(lease, {"frames": 16}) == "queued"
    return lease


async def test_a_segment_passes_the_job_on_with_its_checkpoint(world: World) -> None:
    first = await first_ended(world)
    waiting = await world.reread(first)
    assert (waiting.state, waiting.attempts[0].outcome) == ("running", "segment_ended")
    assert await world.claim() == []
    second = await world.claim_one("cpu")
    assert (second.job_id, second.segment, second.checkpoint) == (first.job_id, 1, {"frames": 16})
    assert second.fence > first.fence
    assert await world.succeed(second) == "succeeded"
    assert (await world.reread(first)).hold_state == "captured"


async def test_the_old_lease_is_late_once_its_segment_ended(world: World) -> None:
    first = await first_ended(world)
    assert await world.leases.segment_end(first, {"frames": 0}) == "stale"
    assert await world.succeed(first) == "stale"
    assert (await world.claim_one("cpu")).checkpoint == {"frames": 16}


async def test_begun_jobs_go_before_everything_that_has_not_begun(world: World) -> None:
    other = await world.account()
    early = await world.submit_many(other, 3, pool="cpu")
    await world.serve(1, "cpu")
    await world.submit_many(await world.account(), 3)
    await world.serve(2)
    first = await first_ended(world)
    assert ids(await world.serve(3, "cpu")) == [first.job_id, *early[1:]]


async def test_the_pools_clock_does_not_jump_to_another_pools_tags(world: World) -> None:
    await world.submit_many(await world.account(), 10, cost=100.0)
    await world.serve(10)
    await first_ended(world)
    assert await world.database.fetch_value("SELECT tag FROM queue") == 0
    await world.serve(1, "cpu")
    clocks = await world.database.fetch("SELECT clock FROM pool ORDER BY name")
    assert [row["clock"] for row in clocks] == [0, 900]


async def test_turns_of_one_pool_do_not_leak_into_the_next(world: World) -> None:
    account = await world.account(concurrency=20)
    await world.submit_many(account, 15, priority="batch")
    chained = await world.submit(account, pools=CHAIN, priority="batch")
    await world.submit_many(account, 5, pool="cpu", priority="batch")
    for _ in range(16):
        lease = await world.claim_one()
        if lease.job_id == chained.id:
            await world.leases.segment_end(lease, {})
        else:
            await world.succeed(lease)
    assert ids(await world.serve(1, "cpu")) == [chained.id]
    urgent = await world.submit(account, pools=("cpu",), priority="interactive")
    assert urgent.id in ids(await world.serve(2, "cpu"))


async def test_leaving_a_pool_lets_a_parked_job_follow_there(world: World) -> None:
    account = await world.account(concurrency=1)
    jobs = [await world.submit(account, pools=CHAIN) for _ in range(2)]
    await world.leases.segment_end(await world.claim_one(), {})
    assert ids([await world.claim_one()]) == [jobs[1].id]
    rows = await world.database.fetch("SELECT pool, active, parked FROM flow ORDER BY pool")
    assert [tuple(row) for row in rows] == [("cpu", 1, 0), ("gpu", 1, 0)]


async def test_cancel_between_segments_ends_at_once(world: World) -> None:
    first = await first_ended(world)
    job = await world.jobs.cancel(first.account_id, first.job_id)
    assert (job.state, job.hold_state) == ("cancelled", "released")
    assert await world.claim(pool="cpu") == []


async def test_a_segment_that_ends_after_a_cancel_request_ends_the_job(world: World) -> None:
    await world.submit(await world.account(), pools=CHAIN)
    lease = await world.claim_one()
    await world.jobs.cancel(lease.account_id, lease.job_id)
    assert await world.leases.segment_end(lease, {}) == "cancelled"
    assert (await world.reread(lease)).hold_state == "released"


async def test_a_segment_gives_back_attempts_but_not_starts(world: World) -> None:
    await world.submit(await world.account(), pools=CHAIN)
    for _ in range(2):
        await world.leases.hand_back(await world.claim_one(), "replica_died", counts=True)
    await world.leases.segment_end(await world.claim_one(), {})
    for _ in range(2):
        assert await world.leases.hand_back(await world.claim_one("cpu"), "replica_died", counts=True) == "queued"
    lease = await world.claim_one("cpu")
    assert await world.leases.hand_back(lease, "replica_died", counts=True) == "failed"
    assert len((await world.reread(lease)).attempts) == 6


async def test_a_later_segment_handed_back_is_still_running_for_its_caller(world: World) -> None:
    first = await first_ended(world)
    second = await world.claim_one("cpu")
    await world.leases.progress(second, 0.75)
    await world.leases.hand_back(second, "handed_back", counts=False)
    job = await world.reread(first)
    assert (job.state, job.progress) == ("running", 0.75)
    assert (await world.events(first.job_id))[-1] == ("state", {"status": "running", "reason": "handed_back"})
    await world.claim_one("cpu")
    assert (await world.reread(first)).progress == 0.75


async def test_the_last_segment_has_no_next_one(world: World) -> None:
    await world.submit(await world.account())
    lease = await world.claim_one()
    with pytest.raises(asyncpg.PostgresError) as caught:
        await world.leases.segment_end(lease, {})
    assert caught.value.sqlstate == "KT906"
    assert await world.succeed(lease) == "succeeded"


async def test_the_same_pool_may_come_twice(world: World) -> None:
    account = await world.account(concurrency=1)
    await world.submit(account, pools=("gpu", "gpu"))
    await world.submit(account)
    lease = await world.claim_one()
    await world.leases.segment_end(lease, {})
    assert ids(await world.serve(2))[0] == lease.job_id


async def test_jobs_that_swap_pools_at_once_do_not_wait_for_each_other(world: World) -> None:
    account = await world.account(concurrency=100)
    await world.slots(gpu=40, cpu=40)
    for _ in range(15):
        await world.submit(account, pools=("gpu", "cpu"))
        await world.submit(account, pools=("cpu", "gpu"))
    leases = [*await world.claim(), *await world.claim(pool="cpu")]
    assert len(leases) == 30
    mixed = [lease for pair in zip(leases[:15], leases[15:], strict=True) for lease in pair]
    assert set(await asyncio.gather(*(world.leases.segment_end(lease, {}) for lease in mixed))) == {"queued"}
    for pool in ("gpu", "cpu"):
        assert len(await world.serve(15, pool)) == 15


async def test_cancels_and_claims_while_segments_end_do_not_wait_for_each_other(world: World) -> None:
    account = await world.account(concurrency=100)
    await world.slots(gpu=100, cpu=100)
    for _ in range(6):
        for _ in range(10):
            await world.submit(account, pools=CHAIN)
        leases = await world.claim()
        assert len(leases) == 10
        await asyncio.gather(
            *(world.leases.segment_end(lease, {}) for lease in leases),
            *(world.jobs.cancel(account, lease.job_id) for lease in leases),
            *(world.claim(2, "cpu") for _ in range(8)),
        )
        for row in await world.database.fetch("SELECT id, fence FROM job WHERE state = 'running'"):
            await world.database.execute("SELECT hand_back($1, $2, 'stopped', false)", row["id"], row["fence"])
        assert await world.counts("queue") == [0]


async def test_a_stage_that_is_open_ends_with_its_segment(world: World) -> None:
    job = await world.submit(await world.account(), pools=("gpu", "cpu"))
    lease = await world.claim_one()
    await world.leases.stage_begin(lease, "model")
    assert await world.leases.segment_end(lease, {}) == "queued"
    (stage,) = (await world.reread(job)).stages
    assert stage.ended_at is not None
