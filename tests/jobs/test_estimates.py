"""Duration estimates: what waits, shared by the slots, and the run itself, measured once it was."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.estimates import Estimates
from jobs.run_times import SAMPLES_NEEDED, RunTimeLog, RunTimes
from jobs.snapshot import Queues
from tasks.registry import TASKS
from tests.jobs.world import World

TASK = TASKS["image.generate"]
INPUT = TASK.prepare({"prompt": "a tree", "seed": 7}).effective_input
PRIOR = TASK.prior_seconds(INPUT)


class Small:
    """A task that passes the pools it is made with."""

    name = "small"

    def __init__(self, *pools: str) -> None:
        self._pools = pools

    def pools(self, effective_input: object) -> tuple[str, ...]:
        return self._pools

    def prior_seconds(self, effective_input: object) -> float:
        return 3.14

    def output_seconds(self, effective_input: object) -> float | None:
        return None


def estimates(world: World) -> Estimates:
    return Estimates(Queues(world.database), RunTimes(world.database))


async def estimated(world: World, *pools: str) -> dict[str, Any]:
    task: Any = Small(*pools)
    return await estimates(world).estimate(task, {})


async def test_an_empty_pool_does_not_wait(world: World) -> None:
    assert await estimated(world, "gpu") == {
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
    assert (await estimated(world, "gpu"))["queueSeconds"] == 10.0
    await world.slots(gpu=0)
    assert (await estimated(world, "gpu"))["queueSeconds"] == 20.0


@pytest.mark.parametrize(
    ("task", "given", "seconds"),
    [
        ("image.generate", {"prompt": "a tree"}, None),
        ("video.generate", {"prompt": "a tree", "durationFrames": 257, "sampledFps": 25}, 10.25),
        ("ace.step.create", {"tags": "pop", "durationSeconds": 90.5}, 90.5),
    ],
)
async def test_the_length_of_the_output_is_told(
    world: World, task: str, given: dict[str, Any], seconds: float | None
) -> None:
    effective = TASKS[task].prepare(given).effective_input
    assert (await estimates(world).estimate(TASKS[task], effective))["outputSeconds"] == seconds


async def test_the_slowest_of_several_pools_counts(world: World) -> None:
    account = await world.account()
    await world.submit_many(account, 2, cost=3.0, pool="cpu")
    await world.submit_many(account, 2, cost=9.0, pool="gpu")
    assert (await estimated(world, "cpu", "gpu"))["queueSeconds"] == 9.0
    assert (await estimated(world, "cpu"))["queueSeconds"] == 3.0


async def test_unknown_pools_wait_for_nothing(world: World) -> None:
    assert (await estimated(world, "gone"))["queueSeconds"] == 0.0


async def test_enough_samples_are_a_measurement(world: World) -> None:
    log = RunTimeLog(world.database)
    for seconds in range(1, SAMPLES_NEEDED):
        log.note(TASK, INPUT, 0, float(seconds))
    await log.flush()
    assert (await estimates(world).estimate(TASK, INPUT))["basis"] == "prior"
    assert await estimates(world).cost_seconds(TASK, INPUT) == PRIOR
    log.note(TASK, INPUT, 0, float(SAMPLES_NEEDED))
    await log.flush()
    found = await estimates(world).estimate(TASK, INPUT)
    assert (found["basis"], found["runSeconds"], found["p90Seconds"]) == ("measured", 3.0, 4.6)
    assert await estimates(world).cost_seconds(TASK, INPUT) == 3.0


async def test_another_shape_is_another_measurement(world: World) -> None:
    log = RunTimeLog(world.database)
    for _ in range(SAMPLES_NEEDED):
        log.note(TASK, INPUT, 0, 9.0)
    await log.flush()
    larger = TASK.prepare({"prompt": "a tree", "width": 2048, "height": 2048}).effective_input
    assert (await estimates(world).estimate(TASK, larger))["basis"] == "prior"


async def test_only_the_newest_samples_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.run_times.SAMPLES_KEPT", 5)
    log = RunTimeLog(world.database)
    for batch in ((1, 2, 3), (4, 5, 6, 7), range(8, 20)):
        for seconds in batch:
            log.note(TASK, INPUT, 0, float(seconds))
        await log.flush()
    assert await world.database.fetch_value("SELECT samples FROM run_time") == [15, 16, 17, 18, 19]


async def test_a_flush_of_nothing_asks_nobody() -> None:
    nobody: Any = None
    await RunTimeLog(nobody).flush()
