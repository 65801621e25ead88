"""What looks stuck, and what does not."""

from __future__ import annotations

from jobs import pools
from jobs.interventions import Operator, intervene
from jobs.models import Failure
from jobs.run_times import RunTimeLog
from jobs.stuck import quarantined, stuck
from tasks.registry import TASKS
from tests.jobs.world import World

ADA = Operator("ada@ops", "looks odd")
TASK = TASKS["image.generate"]
INPUT = TASK.prepare({"prompt": "a fox"}).effective_input


async def found(world: World) -> list[tuple[str, str]]:
    return [(each.why, each.about) for each in await stuck(world.database)]


async def aged(world: World, seconds: int) -> None:
    """As if every attempt had begun so long ago."""
    await world.database.execute("UPDATE attempt SET started_at = now() - $1 * interval '1 s'", seconds)


async def test_a_healthy_service_has_none(world: World) -> None:
    await pools.declare(world.database, frozenset({"cpu", "gpu"}), {"gpu": 3600})
    await world.submit(await world.account(), effective_input=INPUT)
    await world.submit(await world.account(), effective_input=INPUT)
    await world.claim_one()
    assert await stuck(world.database) == await quarantined(world.database) == []


async def test_a_job_whose_dispatcher_is_silent(world: World) -> None:
    job = await world.submit(await world.account(), effective_input=INPUT)
    await world.claim_one()
    await world.kill(world.session)
    (only,) = await stuck(world.database)
    assert (only.job_id, only.why, only.about) == (job.id, "no_live_session", "driven by first, which is silent")
    await world.database.execute("UPDATE session SET ended_at = now() WHERE id = $1", world.session)
    assert [why for why, _ in await found(world)] == ["no_live_session"]
    await world.leases.beat(await world.leases.open_session("second"))
    assert await found(world) == []


async def test_a_job_that_runs_far_beyond_what_was_measured(world: World) -> None:
    log = RunTimeLog(world.database)
    for _ in range(5):
        log.note(TASK, INPUT, 0, 50.0)
    await log.flush()
    await world.submit(await world.account(), effective_input=INPUT)
    await world.claim_one()
    await aged(world, 140)
    assert await found(world) == []
    await aged(world, 160)
    assert await found(world) == [("runs_long", "first has it; 150 s at most, as measured")]


async def test_before_anything_was_measured_much_patience(world: World) -> None:
    await world.submit(await world.account(), effective_input=INPUT)
    await world.claim_one()
    await aged(world, 500)
    assert await found(world) == []
    await aged(world, 7200)
    assert await found(world) == [("runs_long", "first has it; 600 s at most, by its prior")]


async def test_a_job_that_waits_longer_than_its_pool_should_let_it(world: World) -> None:
    account = await world.account(concurrency=1)
    ready, parked = await world.submit_many(account, 2)
    await world.database.execute("UPDATE job SET created_at = now() - interval '2 minutes'")
    assert await found(world) == [], "no limit"
    await pools.declare(world.database, frozenset({"cpu", "gpu"}), {"gpu": 60})
    waiting = await stuck(world.database)
    assert [(each.job_id, each.why, each.about) for each in waiting] == [
        (job, "waits_long", "the pool's limit is 60 s") for job in (ready, parked)
    ]
    assert 119 < waiting[0].seconds < 180
    assert len(await stuck(world.database, limit=1)) == 1
    lease = await world.claim_one()
    await world.leases.hand_back(lease, "handed_back", counts=False)
    assert [each.job_id for each in await stuck(world.database)] == [parked], "it waits since its last attempt"


async def test_what_is_in_quarantine_with_its_evidence(world: World) -> None:
    held = await world.submit(await world.account(), effective_input=INPUT)
    await intervene(world.database, held.id, "quarantine", ADA)
    poisoned = await world.submit(await world.account(), effective_input=INPUT)
    for _ in range(3):
        lease = await world.claim_one()
        await world.leases.stage_begin(lease, "model")
        failure = Failure("out_of_memory", "Too large.", retryable=True)
        await world.leases.hand_back(lease, "out_of_memory", counts=True, failure=failure)
    first, second = await quarantined(world.database)
    assert (first.job_id, first.why, first.state, first.attempts, first.pool) == (
        poisoned.id,
        "poisoned",
        "failed",
        3,
        "gpu",
    )
    assert first.about == "out_of_memory: 3 attempts and 3 starts used up; the last ended with out_of_memory"
    shown = [(each.session, each.outcome, each.stage, each.ended_at is not None) for each in first.evidence]
    assert shown == [("first", "out_of_memory", "model", True)] * 3
    assert (second.job_id, second.why, second.state, second.about) == (
        held.id,
        "quarantined",
        "queued",
        "by ada@ops: looks odd",
    )
    assert [each.why for each in await stuck(world.database)] == ["poisoned", "quarantined"]
    await intervene(world.database, poisoned.id, "release", ADA)
    await intervene(world.database, held.id, "release", ADA)
    assert await quarantined(world.database) == []
