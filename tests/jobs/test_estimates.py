"""Duration estimates: what waits, shared by the slots, and the run itself."""

from __future__ import annotations

from jobs.estimates import estimate
from tests.jobs.world import World


async def test_an_empty_pool_does_not_wait(world: World) -> None:
    assert await estimate(world.database, ("gpu",), 3.14) == {
        "queueSeconds": 0.0,
        "runSeconds": 3.1,
        "totalSeconds": 3.1,
        "p90Seconds": 5.0,
        "outputSeconds": None,
        "basis": "prior",
    }


async def test_ready_and_running_work_is_shared_by_the_slots_and_parked_work_is_not_ahead(world: World) -> None:
    account = await world.account(concurrency=4)
    await world.submit_many(account, 10, cost=5.0)
    await world.claim(1)
    assert (await estimate(world.database, ("gpu",), 1.0))["queueSeconds"] == 10.0
    await world.slots(gpu=0)
    assert (await estimate(world.database, ("gpu",), 1.0))["queueSeconds"] == 20.0


async def test_the_slowest_of_several_pools_counts(world: World) -> None:
    account = await world.account()
    await world.submit_many(account, 2, cost=3.0, pool="cpu")
    await world.submit_many(account, 2, cost=9.0, pool="gpu")
    assert (await estimate(world.database, ("cpu", "gpu"), 1.0))["queueSeconds"] == 9.0
    assert (await estimate(world.database, ("cpu",), 1.0))["queueSeconds"] == 3.0


async def test_unknown_pools_wait_for_nothing(world: World) -> None:
    assert (await estimate(world.database, ("gone",), 1.0))["queueSeconds"] == 0.0
    assert (await estimate(world.database, (), 1.0))["queueSeconds"] == 0.0


async def test_a_submitted_job_does_not_wait_for_itself(world: World) -> None:
    account = await world.account()
    await world.submit_many(account, 1, cost=4.0)
    (mine,) = await world.submit_many(account, 1, cost=8.0)
    assert (await estimate(world.database, ("gpu",), 8.0))["queueSeconds"] == 6.0
    assert (await estimate(world.database, ("gpu",), 8.0, besides=mine))["queueSeconds"] == 2.0
