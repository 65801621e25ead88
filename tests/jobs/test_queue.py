"""Fair between accounts, ordered inside one: tags, turns and parking."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

import pytest

from jobs.models import Priority
from tests.jobs.world import World, ids


async def test_light_accounts_are_served_at_once_beside_2000_jobs_of_another(world: World) -> None:
    heavy = await world.account()
    await world.submit_many(heavy, 2_000)
    await world.serve(30)
    lights = [await world.account() for _ in range(10)]
    for light in lights:
        await world.submit_many(light, 5)
    served = [lease.account_id for lease in await world.serve(60)]
    for light in lights:
        assert served.count(light) == 5
        assert served.index(light) <= 11
    late = await world.account()
    await world.submit(late)
    assert late in [lease.account_id for lease in await world.serve(2)]


async def test_an_idle_account_saves_up_no_claim_on_the_future(world: World) -> None:
    one, two = await world.account(), await world.account()
    await world.submit_many(one, 50)
    await world.serve(40)
    await world.submit_many(two, 50)
    served = Counter(lease.account_id for lease in await world.serve(10))
    assert abs(served[one] - served[two]) <= 1


async def test_expensive_jobs_come_less_often(world: World) -> None:
    cheap, dear = await world.account(), await world.account()
    await world.submit_many(cheap, 20, cost=1.0)
    await world.submit_many(dear, 20, cost=4.0)
    served = Counter(lease.account_id for lease in await world.serve(20))
    assert served == {cheap: 16, dear: 4}


async def test_only_as_many_as_the_concurrency_are_ready_and_the_rest_follow_in_order(world: World) -> None:
    account = await world.account(concurrency=3)
    jobs = await world.submit_many(account, 10)
    assert await world.queue(account) == ["ready"] * 3 + ["parked"] * 7
    served: list[UUID] = []
    while leases := await world.claim(2):
        assert (await world.queue(account)).count("parked") == max(0, 10 - len(served) - 3)
        for lease in leases:
            served.append(lease.job_id)
            await world.succeed(lease)
    assert served == jobs


async def test_concurrency_bounds_an_account_in_each_pool_by_itself(world: World) -> None:
    account = await world.account(concurrency=2)
    await world.slots(gpu=9, cpu=9)
    for pool in ("gpu", "cpu"):
        await world.submit_many(account, 5, pool=pool)
        assert len(await world.claim(9, pool)) == 2


@pytest.mark.parametrize("concurrency", [1, 20])
async def test_classes_share_eight_to_four_to_one(world: World, concurrency: int) -> None:
    account = await world.account(concurrency=concurrency)
    kinds: dict[UUID, Priority] = {}
    classes: tuple[Priority, ...] = ("batch", "standard", "interactive")
    for priority in classes:
        for job_id in await world.submit_many(account, 40, priority=priority):
            kinds[job_id] = priority
    served = [kinds[lease.job_id] for lease in await world.serve(40)]
    first = served[1:14] if concurrency == 1 else served[:13]
    assert Counter(first) == Counter(interactive=8, standard=4, batch=1)
    assert Counter(served[13:26])["batch"] == 1
    assert served[26:39].count("batch") == 1


async def test_inside_a_class_jobs_keep_their_order(world: World) -> None:
    account = await world.account(concurrency=3)
    batch = await world.submit_many(account, 6, priority="batch")
    fast = await world.submit_many(account, 6, priority="interactive")
    served = ids(await world.serve(12))
    assert [job for job in served if job in batch] == batch
    assert [job for job in served if job in fast] == fast


async def test_an_interactive_job_overtakes_its_accounts_own_waiting_jobs(world: World) -> None:
    account = await world.account(concurrency=20)
    await world.submit_many(account, 10, priority="batch")
    await world.serve(3)
    urgent = await world.submit(account, priority="interactive")
    assert ids(await world.serve(1)) == [urgent.id]


async def test_priority_does_not_beat_other_accounts(world: World) -> None:
    pushy, patient = await world.account(), await world.account()
    await world.submit_many(patient, 10, priority="batch")
    await world.submit_many(pushy, 10, priority="interactive")
    served = Counter(lease.account_id for lease in await world.serve(10))
    assert served == {pushy: 5, patient: 5}


async def test_a_stream_of_interactive_jobs_never_starves_a_batch_job(world: World) -> None:
    account = await world.account(concurrency=2)
    await world.submit_many(account, 3, priority="interactive")
    slow = await world.submit(account, priority="batch")
    served: list[UUID] = []
    while slow.id not in served and len(served) < 30:
        await world.submit(account, priority="interactive")
        served += ids(await world.serve(1))
    assert len(served) <= 13


async def test_cancelled_jobs_cost_an_account_no_turn(world: World) -> None:
    fickle, other = await world.account(), await world.account()
    for job_id in await world.submit_many(fickle, 20):
        await world.jobs.cancel(fickle, job_id)
    await world.submit_many(other, 5)
    job = await world.submit(fickle)
    assert job.id in ids(await world.serve(2))


async def test_cancelling_gains_nothing_either(world: World) -> None:
    greedy, fair = await world.account(), await world.account()
    await world.submit_many(fair, 30)
    for _ in range(5):
        jobs = await world.submit_many(greedy, 6)
        for job_id in jobs[1:]:
            await world.jobs.cancel(greedy, job_id)
    served = Counter(lease.account_id for lease in await world.serve(10))
    assert served == {greedy: 5, fair: 5}


async def test_a_cancelled_job_of_late_turn_does_not_hold_new_ones_back(world: World) -> None:
    account = await world.account(concurrency=20)
    batch = await world.submit_many(account, 20, priority="batch")
    await world.jobs.cancel(account, batch[-1])
    urgent = await world.submit(account, priority="interactive")
    assert urgent.id in ids(await world.serve(2))


async def test_a_parked_job_that_was_passed_over_follows_at_the_next_sweep(world: World) -> None:
    account = await world.account(concurrency=1)
    first, second = await world.submit_many(account, 2)
    async with world.database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM queue WHERE job_id = $1 FOR UPDATE", second)
        assert ids(await world.serve(1)) == [first]
        await transaction.rollback()
    assert await world.claim() == []
    await world.leases.sweep(most_running=20)
    assert ids(await world.serve(1)) == [second]


async def test_a_raised_concurrency_counts_from_the_next_sweep_on(world: World) -> None:
    account = await world.account(concurrency=1)
    jobs = await world.submit_many(account, 6)
    await world.database.execute("UPDATE account SET concurrency = 4")
    await world.leases.sweep(most_running=20)
    assert await world.queue(account) == ["ready"] * 4 + ["parked"] * 2
    assert ids(await world.serve(6)) == jobs


async def test_a_lowered_concurrency_lets_what_is_ready_go_on(world: World) -> None:
    account = await world.account(concurrency=4)
    jobs = await world.submit_many(account, 6)
    await world.database.execute("UPDATE account SET concurrency = 1")
    await world.serve(2)
    assert await world.queue(account) == ["ready", "ready", "parked", "parked"]
    assert ids(await world.serve(9)) == jobs[2:]


async def test_submits_cancels_and_ends_at_once_keep_the_counters(world: World) -> None:
    account = await world.account(concurrency=5)
    await world.slots(gpu=8)
    jobs = await world.submit_many(account, 40)

    async def serve() -> None:
        for _ in range(6):
            for lease in await world.claim(2):
                await world.succeed(lease)

    await asyncio.gather(
        *(serve() for _ in range(3)),
        *(world.submit(account, priority="interactive") for _ in range(15)),
        *(world.jobs.cancel(account, job_id) for job_id in jobs[::2]),
    )
    await world.leases.sweep(most_running=20)
    while await world.serve(1):
        pass
    assert await world.queue(account) == []
    flow = await world.database.fetch_row("SELECT active, parked FROM flow")
    assert flow is not None
    assert tuple(flow) == (0, 0)
