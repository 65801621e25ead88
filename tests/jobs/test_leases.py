"""Claims, fences and every way a lease ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import asyncpg
import pytest

from billing.wallets import Balance
from jobs.leases import Ended, Outcome, SessionEnded, drain, resume
from jobs.models import Failure, Lease
from tests.jobs.world import DONE, FAILURE, PRICE, World, ids


async def leased(world: World) -> Lease:
    await world.submit(await world.account())
    return await world.claim_one()


async def test_a_claim_starts_an_attempt(world: World) -> None:
    account = await world.account()
    job = await world.submit(account, request_id="req_9")
    lease = await world.claim_one()
    assert lease == Lease(job.id, 1, account, "image.generate", 0, job.effective_input, None, "req_9")
    running = await world.reread(job)
    assert running.state == "running"
    assert running.started_at is not None
    assert [(attempt.ended_at, attempt.outcome) for attempt in running.attempts] == [(None, None)]


async def test_success_captures_the_price(world: World) -> None:
    account = await world.account(credit=1_000)
    await world.submit(account)
    lease = await world.claim_one()
    outcome = replace(DONE, upstream={"model": "m"}, adjustments=({"path": "width"},))
    assert await world.leases.settle(lease, "succeeded", outcome) == "succeeded"
    job = await world.reread(lease)
    assert (job.state, job.hold_state, job.progress, job.stage) == ("succeeded", "captured", 1.0, None)
    assert (job.engine, job.weights_digest, job.stand_in) == ("e", "d", True)
    assert (job.upstream, job.input_adjustments) == ({"model": "m"}, [{"path": "width"}])
    assert job.outputs == list(DONE.outputs)
    assert job.captured_at is not None
    assert job.released_at is None
    assert [(attempt.outcome, attempt.replica) for attempt in job.attempts] == [("succeeded", "r")]
    assert await world.balance(account) == Balance(900, 0, 0)
    assert await world.queue(account) == []


async def test_failure_releases_the_price(world: World) -> None:
    lease = await leased(world)
    assert await world.leases.settle(lease, "failed", Outcome(), FAILURE) == "failed"
    job = await world.reread(lease)
    assert (job.state, job.hold_state, job.failure, job.outputs) == ("failed", "released", FAILURE.as_json(), [])
    assert await world.events(lease.job_id) == [
        ("state", {"status": "queued", "requestId": "req_1"}),
        ("state", {"status": "running"}),
        ("state", {"status": "failed", "failure": FAILURE.as_json()}),
    ]
    assert await world.balance(lease.account_id) == Balance(1_000_000, 0, 0)


async def test_a_failed_end_and_its_failure_belong_together(world: World) -> None:
    lease = await leased(world)
    with pytest.raises(ValueError, match="failure"):
        await world.leases.settle(lease, "failed", Outcome())
    with pytest.raises(ValueError, match="failure"):
        await world.leases.settle(lease, "succeeded", DONE, FAILURE)


async def test_a_stop_that_nobody_asked_for_gives_the_job_back(world: World) -> None:
    lease = await leased(world)
    released = datetime(2026, 11, 23, tzinfo=UTC)
    outcome = Outcome(stopped_at_step=2, gpu_released_at=released)
    assert await world.leases.settle(lease, "cancelled", outcome) == "queued"
    job = await world.reread(lease)
    assert (job.state, job.hold_state, job.attempts[0].outcome) == ("queued", "held", "stopped")
    again = await world.claim_one()
    await world.jobs.cancel(again.account_id, again.job_id)
    assert await world.leases.settle(again, "cancelled", outcome) == "cancelled"
    job = await world.reread(lease)
    assert (job.stopped_at_step, job.gpu_released_at) == (2, released)


async def test_20_settles_at_once_end_a_job_once(world: World) -> None:
    lease = await leased(world)
    ends = await asyncio.gather(
        *(
            world.succeed(lease) if number % 2 else world.leases.settle(lease, "failed", Outcome(), FAILURE)
            for number in range(20)
        )
    )
    assert ends.count("stale") == 19
    assert (await world.reread(lease)).state in ends


# Claim limits.


async def test_a_claim_takes_one_more_than_the_free_slots(world: World) -> None:
    await world.submit_many(await world.account(), 10)
    assert len(await world.claim(2)) == 2
    assert len(await world.claim()) == 1
    assert await world.claim() == []
    await world.slots(gpu=4)
    (*_, last) = await world.claim()
    await world.slots(gpu=0)
    assert await world.claim() == []
    await world.succeed(last)
    assert await world.claim() == []


async def test_a_pool_without_replicas_is_woken_by_one_job(world: World) -> None:
    await world.slots(gpu=0)
    await world.submit_many(await world.account(), 3)
    assert len(await world.claim()) == 1


@pytest.mark.parametrize("most", [0, -5])
async def test_who_asks_for_nothing_gets_nothing(world: World, most: int) -> None:
    await world.submit(await world.account())
    assert await world.claim(most) == []


async def test_a_paused_or_unknown_pool_gives_nothing(world: World) -> None:
    await world.submit(await world.account())
    await world.database.execute("UPDATE pool SET paused = true WHERE name = 'gpu'")
    assert await world.claim() == []
    assert await world.claim(pool="gone") == []
    assert await world.claim(pool="cpu") == []
    await world.database.execute("UPDATE pool SET paused = false")
    assert len(await world.claim()) == 1


async def test_eight_dispatchers_lease_no_job_twice_and_no_slot_too_many(world: World) -> None:
    await world.submit_many(await world.account(concurrency=100), 60)
    await world.slots(gpu=29)
    sessions = [await world.leases.open_session(f"d{number}") for number in range(8)]
    rounds = await asyncio.gather(*(world.claim(2, session=session) for session in sessions * 4))
    found = [lease.job_id for leases in rounds for lease in leases]
    assert len(found) == len(set(found)) == 30


async def test_a_claim_does_not_wait_for_a_locked_row(world: World) -> None:
    first, second = [await world.submit(await world.account()) for _ in range(2)]
    async with world.database.transaction() as connection:
        await connection.execute("SELECT FROM queue WHERE job_id = $1 FOR UPDATE", first.id)
        assert ids([await asyncio.wait_for(world.claim_one(), 2)]) == [second.id]
    assert ids([await world.claim_one()]) == [first.id]


async def test_a_submit_does_not_wait_for_a_claim(world: World) -> None:
    await world.submit(await world.account())
    account = await world.account()
    async with world.database.transaction() as connection:
        await connection.fetch("SELECT * FROM claim('gpu', 1, $1)", world.session)
        await asyncio.wait_for(world.submit(account), 2)


# Hand-backs and attempts.


async def test_a_job_handed_back_keeps_its_tag_and_goes_first(world: World) -> None:
    account, other = await world.account(), await world.account()
    job = await world.submit(account)
    (tag,) = await world.queue(account, "tag")
    lease = await world.claim_one()
    await world.submit_many(other, 5)
    assert await world.leases.hand_back(lease, "handed_back", counts=False) == "queued"
    assert await world.queue(account, "tag") == [tag]
    again = await world.claim_one()
    assert (again.job_id, again.fence) == (job.id, lease.fence + 2)
    back = await world.reread(job)
    assert [attempt.outcome for attempt in back.attempts] == ["handed_back", None]
    assert (await world.events(job.id))[2] == ("state", {"status": "queued", "reason": "handed_back"})


async def test_begun_work_goes_before_equal_and_smaller_tags(world: World) -> None:
    early = await world.submit(await world.account())
    async with world.database.transaction() as connection:
        await connection.execute("SELECT FROM queue WHERE job_id = $1 FOR UPDATE", early.id)
        await world.submit(await world.account())
        begun = await world.claim_one()
        await world.leases.hand_back(begun, "handed_back", counts=False)
    assert ids([await world.claim_one()]) == [begun.job_id] != [early.id]


async def test_the_third_counted_attempt_fails_the_job(world: World) -> None:
    account = await world.account(credit=PRICE)
    await world.submit(account)
    failure = Failure("replica_died", "It died.", retryable=True)
    ends: list[Ended] = []
    for _ in range(3):
        lease = await world.claim_one()
        ends.append(await world.leases.hand_back(lease, "replica_died", counts=True, failure=failure))
    assert ends == ["queued", "queued", "failed"]
    job = await world.reread(lease)
    assert (job.state, job.hold_state, job.failure) == ("failed", "released", failure.as_json())
    assert [attempt.outcome for attempt in job.attempts] == ["replica_died"] * 3
    assert await world.balance(account) == Balance(PRICE, 0, 0)
    assert await world.claim() == []


async def test_the_twentieth_start_is_the_last(world: World) -> None:
    await world.submit(await world.account())
    for _ in range(19):
        assert await world.leases.hand_back(await world.claim_one(), "handed_back", counts=False) == "queued"
    lease = await world.claim_one()
    assert await world.leases.hand_back(lease, "handed_back", counts=False) == "failed"
    job = await world.reread(lease)
    assert job.failure is not None
    assert (job.failure["code"], job.failure["retryable"], len(job.attempts)) == ("attempts_exhausted", True, 20)
    assert job.hold_state == "released"


async def test_the_twentieth_start_may_still_succeed(world: World) -> None:
    await world.submit(await world.account())
    for _ in range(19):
        await world.leases.hand_back(await world.claim_one(), "handed_back", counts=False)
    assert await world.succeed(await world.claim_one()) == "succeeded"


async def test_a_job_that_was_asked_to_stop_ends_when_it_is_handed_back(world: World) -> None:
    lease = await leased(world)
    await world.jobs.cancel(lease.account_id, lease.job_id)
    assert await world.leases.hand_back(lease, "handed_back", counts=True) == "cancelled"
    assert (await world.reread(lease)).hold_state == "released"


# Late fences.


async def handed_on(world: World, lease: Lease) -> None:
    await world.leases.hand_back(lease, "handed_back", counts=False)
    await world.claim_one()


async def ended(world: World, lease: Lease) -> None:
    await world.succeed(lease)


async def waiting_again(world: World, lease: Lease) -> None:
    await world.leases.hand_back(lease, "handed_back", counts=False)


@pytest.mark.parametrize("meanwhile", [handed_on, ended, waiting_again])
async def test_a_late_fence_changes_nothing(world: World, meanwhile: Callable[[World, Lease], Awaitable[None]]) -> None:
    lease = await leased(world)
    await world.leases.stage_begin(lease, "fetch")
    await meanwhile(world, lease)
    watched = ("job", "queue", "flow", "hold", "wallet", "attempt", "stage", "event", "movement")
    query = " UNION ALL ".join(f"SELECT '{table}' || {table}::text FROM {table}" for table in watched)
    before = await world.database.fetch(query)
    leases = world.leases
    assert await leases.settle(lease, "succeeded", DONE) == "stale"
    assert await leases.settle(lease, "failed", Outcome(), FAILURE) == "stale"
    assert await leases.settle(lease, "cancelled", Outcome()) == "stale"
    assert await leases.hand_back(lease, "x", counts=True) == "stale"
    assert await leases.segment_end(lease, {}) == "stale"
    assert await leases.progress(lease, 0.9) is False
    assert await leases.stage_begin(lease, "encode") is False
    await leases.stage_end(lease, "fetch", 9.0)
    assert await world.database.fetch(query) == before


async def test_an_unknown_job_is_a_late_fence(world: World) -> None:
    lease = replace(await leased(world), job_id=uuid4())
    assert await world.succeed(lease) == "stale"
    assert await world.leases.hand_back(lease, "x", counts=True) == "stale"
    assert not await world.leases.progress(lease, 0.5)


# Progress, stages, events.


async def test_progress_and_stages_are_events_in_order(world: World) -> None:
    lease = await leased(world)
    leases = world.leases
    assert await leases.stage_begin(lease, "gpu")
    assert await leases.progress(lease, 0.5)
    assert await leases.progress(lease, 0.25)
    running = await world.reread(lease)
    assert (running.progress, running.stage, running.sequence) == (0.5, "gpu", 5)
    await leases.stage_end(lease, "gpu", 1.5)
    await leases.stage_end(lease, "gpu", 9.5)
    await leases.stage_begin(lease, "publish")
    await world.succeed(lease)
    job = await world.reread(lease)
    assert [(stage.name, stage.gpu_seconds, stage.ended_at is None) for stage in job.stages] == [
        ("gpu", 1.5, False),
        ("publish", 0.0, False),
    ]
    assert (await world.events(lease.job_id))[2:] == [
        ("stage", {"stage": "gpu"}),
        ("progress", {"progress": 0.5}),
        ("progress", {"progress": 0.5}),
        ("stage", {"stage": "publish"}),
        ("state", {"status": "succeeded"}),
    ]


async def test_progress_is_a_share_and_never_falls(world: World) -> None:
    lease = await leased(world)
    for fraction in (1.1, float("nan"), float("inf")):
        with pytest.raises(asyncpg.CheckViolationError):
            await world.leases.progress(lease, fraction)
    assert await world.leases.progress(lease, -0.5)
    assert (await world.reread(lease)).progress == 0.0


async def test_a_preview_is_an_event_with_the_picture_in_it_and_a_late_one_is_not_shown(world: World) -> None:
    lease = await leased(world)
    assert await world.leases.preview(lease, "image/webp", b"RIFF")
    shown = {"preview": {"mimeType": "image/webp", "dataBase64": "UklGRg=="}}
    assert (await world.events(lease.job_id))[-1] == ("preview", shown)
    await world.leases.hand_back(lease, "handed_back", counts=False)
    count = len(await world.events(lease.job_id))
    assert not await world.leases.preview(lease, "image/webp", b"RIFF")
    assert len(await world.events(lease.job_id)) == count


async def test_a_new_attempt_begins_at_zero(world: World) -> None:
    lease = await leased(world)
    await world.leases.progress(lease, 0.5)
    await world.leases.hand_back(lease, "handed_back", counts=False)
    await world.claim_one()
    assert (await world.reread(lease)).progress == 0.0


async def test_event_numbers_have_no_gap_whoever_writes_at_once(world: World) -> None:
    lease = await leased(world)
    await asyncio.gather(
        *(world.leases.progress(lease, number / 30) for number in range(30)),
        *(world.leases.stage_begin(lease, f"s{number}") for number in range(5)),
        world.jobs.cancel(lease.account_id, lease.job_id),
    )
    await world.leases.settle(lease, "cancelled", Outcome())
    rows = await world.database.fetch("SELECT seq FROM event WHERE job_id = $1 ORDER BY seq", lease.job_id)
    assert [row["seq"] for row in rows] == list(range(1, 2 + 30 + 5 + 1 + 1 + 1))


# Start time-outs.


async def test_a_job_that_nobody_starts_in_time_fails(world: World) -> None:
    account = await world.account(credit=10 * PRICE, concurrency=2)
    late = [await world.submit(account, start_timeout_seconds=0) for _ in range(3)]
    kept = await world.submit(account)
    assert await world.leases.time_out_starts() == 3
    for job in late:
        failed = await world.reread(job)
        assert failed.failure is not None
        assert (failed.state, failed.hold_state, failed.failure["code"]) == ("failed", "released", "start_timeout")
    assert ids([await world.claim_one()]) == [kept.id]
    assert await world.leases.time_out_starts() == 0


async def test_a_job_that_was_started_has_no_start_timeout(world: World) -> None:
    job = await world.submit(await world.account(), start_timeout_seconds=0)
    lease = await world.claim_one()
    assert await world.leases.time_out_starts() == 0
    await world.leases.hand_back(lease, "handed_back", counts=False)
    assert await world.leases.time_out_starts() == 0
    assert (await world.reread(job)).state == "queued"


async def test_starts_claims_and_cancels_at_once_end_each_job_once(world: World) -> None:
    account = await world.account(concurrency=50)
    jobs = [await world.submit(account, start_timeout_seconds=0) for _ in range(20)]
    await world.slots(gpu=30)
    claiming = asyncio.create_task(world.claim())
    await asyncio.gather(
        *(world.leases.time_out_starts() for _ in range(3)),
        *(world.jobs.cancel(account, job.id) for job in jobs[::2]),
    )
    for lease in await claiming:
        assert await world.succeed(lease) in {"succeeded", "cancelled"}
    states = [(await world.reread(job)).state for job in jobs]
    assert set(states) <= {"succeeded", "failed", "cancelled"}


# Sessions.


async def test_a_session_that_does_not_beat_loses_its_jobs_to_others(world: World) -> None:
    lease = await leased(world)
    other = await world.leases.open_session("second")
    assert await world.leases.beat(other) is None
    assert (await world.reread(lease)).state == "running"
    await world.kill(world.session)
    await world.leases.beat(other)
    job = await world.reread(lease)
    assert (job.state, job.attempts[0].outcome) == ("queued", "session_expired")
    again = await world.claim_one(session=other)
    assert await world.succeed(lease) == "stale"
    assert await world.succeed(again) == "succeeded"
    with pytest.raises(SessionEnded):
        await world.leases.beat(world.session)
    with pytest.raises(SessionEnded):
        await world.claim()


async def test_a_session_that_beats_is_never_reclaimed(world: World) -> None:
    lease = await leased(world)
    other = await world.leases.open_session("second")
    await world.database.execute("UPDATE session SET beat_at = clock_timestamp() - interval '5 s'")
    await world.leases.beat(other)
    assert (await world.reread(lease)).state == "running"
    assert await world.leases.beat(world.session) is None


async def test_nobody_is_reclaimed_while_postgresql_has_just_started(world: World) -> None:
    lease = await leased(world)
    other = await world.leases.open_session("second")
    await world.kill(world.session)
    await world.restart_grace("100 years")
    await world.leases.beat(other)
    assert (await world.reread(lease)).state == "running"
    assert await world.leases.beat(world.session) is None
    await world.restart_grace("0")
    await world.kill(world.session)
    await world.leases.beat(other)
    assert (await world.reread(lease)).state == "queued"


async def test_a_reclaim_ends_what_was_cancelled_or_tried_too_often(world: World) -> None:
    account = await world.account()
    await world.slots(gpu=5)
    await world.submit_many(account, 3)
    asked, worn, plain = await world.claim(3)
    await world.jobs.cancel(account, asked.job_id)
    await world.database.execute("UPDATE job SET attempts = 3 WHERE id = $1", worn.job_id)
    await world.kill(world.session)
    await world.leases.beat(await world.leases.open_session("second"))
    assert [(await world.reread(lease)).state for lease in (asked, worn, plain)] == ["cancelled", "failed", "queued"]


async def test_ten_reclaim_at_once_while_the_dead_one_settles(world: World) -> None:
    account = await world.account(concurrency=60)
    await world.slots(gpu=40)
    await world.submit_many(account, 40)
    leases = await world.claim(40)
    for lease in leases[::3]:
        await world.jobs.cancel(account, lease.job_id)
    others = [await world.leases.open_session(f"d{number}") for number in range(10)]
    await world.kill(world.session)
    await asyncio.gather(
        *(world.leases.beat(other) for other in others), *(world.succeed(lease) for lease in reversed(leases))
    )
    await world.leases.beat(others[0])
    assert {(await world.reread(lease)).state for lease in leases} <= {"queued", "succeeded", "cancelled"}


async def test_closing_a_session_hands_everything_back(world: World) -> None:
    await world.submit_many(await world.account(), 3)
    leases = await world.claim(3)
    assert await world.leases.close_session(world.session) == 3
    assert await world.leases.close_session(world.session) == 0
    for lease in leases:
        job = await world.reread(lease)
        assert (job.state, job.attempts[0].outcome) == ("queued", "handed_back")
    with pytest.raises(SessionEnded):
        await world.claim()


async def test_a_claim_under_way_is_not_lost_when_its_session_closes(world: World) -> None:
    job = await world.submit(await world.account())
    async with world.database.transaction() as connection:
        await connection.fetch("SELECT * FROM claim('gpu', 1, $1)", world.session)
        closing = asyncio.create_task(world.leases.close_session(world.session))
        await asyncio.sleep(0.1)
        assert not closing.done()
    assert await closing == 1
    assert (await world.reread(job)).state == "queued"


async def test_an_unknown_session_claims_nothing(world: World) -> None:
    job = await world.submit(await world.account())
    with pytest.raises(SessionEnded):
        await world.claim(session=world.session + 99)
    with pytest.raises(SessionEnded):
        await world.leases.beat(world.session + 99)
    assert (await world.reread(job)).state == "queued"


async def test_drain_tells_dispatchers_until_when_and_resume_takes_it_back(world: World) -> None:
    lease = await leased(world)
    draining = asyncio.create_task(drain(world.database, 60))
    await asyncio.sleep(0.3)
    assert not draining.done()
    until = await world.leases.beat(world.session)
    assert until is not None
    assert timedelta(seconds=50) < until - datetime.now(UTC) < timedelta(seconds=61)
    await world.leases.hand_back(lease, "handed_back", counts=False)
    await asyncio.wait_for(draining, 2)
    await resume(world.database)
    assert await world.leases.beat(world.session) is None


async def test_drain_does_not_wait_for_the_dead(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await leased(world)
    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr("jobs.leases.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    await asyncio.wait_for(drain(world.database, 0), 5)
    assert next(ticks) <= 8


async def test_what_no_engine_took_was_no_start_and_still_times_out(world: World) -> None:
    job = await world.submit(await world.account())
    for _ in range(30):
        lease = await world.claim_one()
        await world.leases.stage_begin(lease, "gpu")
        assert await world.leases.hand_back(lease, "cluster_unavailable", counts=False, begun=False) == "queued"
    waiting = await world.reread(job)
    assert (waiting.state, waiting.started_at, waiting.attempts, waiting.stages) == ("queued", None, [], [])
    lease = await world.claim_one()
    assert await world.leases.hand_back(lease, "handed_back", counts=False) == "queued"
    lease = await world.claim_one()
    assert await world.leases.hand_back(lease, "cluster_unavailable", counts=False, begun=False) == "queued"
    begun = await world.reread(job)
    assert (begun.started_at is not None, [each.outcome for each in begun.attempts]) == (True, ["handed_back"])
    never = await world.submit(await world.account(), start_timeout_seconds=0)
    (lease,) = [each for each in await world.claim(2) if each.job_id == never.id]
    await world.leases.hand_back(lease, "cluster_unavailable", counts=False, begun=False)
    assert await world.leases.time_out_starts() == 1
    assert (await world.reread(never)).state == "failed"
