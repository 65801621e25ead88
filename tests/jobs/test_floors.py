"""Floors: a claim begins its looks where the line and the leases begin, and no job is ever lost below."""

from __future__ import annotations

from tests.jobs.world import World, ids, submission


async def swept(world: World) -> float:
    """The floor after two sweeps, which is as high as it gets."""
    await world.leases.sweep(most_running=20)
    await world.leases.sweep(most_running=20)
    floor: float = await world.database.fetch_value("SELECT floor FROM pool WHERE name = 'gpu'")
    return floor


async def test_the_floor_rises_with_what_was_claimed(world: World) -> None:
    account = await world.account()
    await world.submit_many(account, 20)
    assert await swept(world) == 0
    await world.serve(5)
    assert await swept(world) == 4
    await world.serve(15)
    assert await swept(world) == 19
    assert ids(await world.serve(1)) == []
    assert await world.submit_many(account, 1) == ids(await world.serve(1))


async def test_jobs_that_are_handed_back_are_found_above_the_floor(world: World) -> None:
    account = await world.account()
    jobs = await world.submit_many(account, 12)
    begun, fresh = await world.claim(2)
    await world.serve(5)
    await swept(world)
    await world.leases.hand_back(fresh, "cluster_unavailable", counts=False, begun=False)
    await world.leases.hand_back(begun, "handed_back", counts=False)
    assert ids(await world.serve(3)) == [*jobs[:2], jobs[7]]


async def test_a_segment_is_found_above_the_floor_of_its_pool(world: World) -> None:
    account = await world.account()
    job = await world.submit(account, pools=("cpu", "gpu"))
    lease = await world.claim_one("cpu")
    await world.submit_many(account, 8)
    await world.serve(5)
    assert await swept(world) == 4
    assert await world.leases.segment_end(lease, {}) == "queued"
    assert ids(await world.serve(1)) == [job.id]


async def test_a_promoted_job_is_found_above_the_floor(world: World) -> None:
    slow, fast = await world.account(concurrency=1), await world.account()
    waiting = await world.submit_many(slow, 2)
    (lease,) = await world.claim(1)
    await world.submit_many(fast, 10)
    await world.serve(9)
    assert await swept(world) > 0
    await world.succeed(lease)
    assert waiting[1] in ids(await world.serve(2))


async def test_what_is_ready_keeps_the_floor_down_when_it_is_locked_reordered_or_cancelled(world: World) -> None:
    account, other = await world.account(), await world.account()
    first, second, third = await world.submit_many(account, 3, priority="batch")
    await world.submit_many(other, 9, cost=0.25)
    async with world.database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM queue WHERE account_id = $1 FOR UPDATE", account)
        assert not {first, second, third} & set(ids(await world.serve(9)))
        assert await swept(world) == 0
        await transaction.rollback()
    urgent = await world.submit(account, priority="interactive")
    await world.jobs.cancel(account, first)
    assert await swept(world) < await world.database.fetch_value("SELECT clock FROM pool WHERE name = 'gpu'")
    assert ids(await world.serve(5)) == [urgent.id, second, third]


async def test_a_submit_that_commits_late_is_found_by_the_next_sweep(world: World) -> None:
    busy, late = await world.account(), await world.account()
    await world.submit_many(busy, 9)
    async with world.database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        given = submission(late)
        job_id = await connection.fetchval(
            """SELECT job_id FROM submit(gen_random_uuid(), $1, $2, '{}', '[]', '[]', '{}', 100, '{gpu}', 1, 2::smallint,
                 'req', 'route', NULL, '', interval '1 hour', NULL, NULL, '{}')""",
            late,
            given.task,
        )
        await world.serve(8)
        assert await swept(world) == 7
        await transaction.commit()
    await world.submit_many(busy, 5)
    assert job_id not in ids(await world.serve(1))
    await world.leases.sweep(most_running=20)
    assert ids(await world.serve(1)) == [job_id]


async def test_every_lease_is_counted_however_long_it_lasts(world: World) -> None:
    await world.slots(gpu=3)
    account = await world.account(concurrency=100)
    await world.submit_many(account, 60)
    long = await world.claim(2)
    for _ in range(5):
        await world.serve(5)
        await world.leases.sweep(most_running=20)
        (again,) = await world.claim(1)
        await world.leases.hand_back(again, "handed_back", counts=False)
    assert len(await world.claim(32)) == 2
    assert await world.claim(32) == []
    await world.succeed(long[0])
    assert len(await world.claim(32)) == 1
    await world.succeed(long[1])
    await world.leases.sweep(most_running=20)
    assert len(await world.claim(32)) == 1
    assert await world.claim(32) == []
