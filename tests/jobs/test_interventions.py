"""What operators do by hand: jobs taken back, held back and let go, pools paused and drained; all of it audited."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from billing.wallets import Balance
from core.clock import now
from core.ids import encode
from jobs import interventions
from jobs.interventions import (
    InQuarantine,
    JobHasEnded,
    NoSuchJob,
    NoSuchPool,
    NotInQuarantine,
    Operator,
    command_pool,
    drained,
    intervene,
)
from jobs.leases import Outcome
from jobs.models import Failure
from jobs.wakeup import STOP_CHANNEL
from tests.jobs.world import PRICE, World, ids

ADA = Operator("ada@ops", "looks odd")
DIED = Failure("replica_died", "It died.", retryable=True)


# Requeue.


async def test_a_running_job_that_is_requeued_has_a_new_fence_and_its_worker_is_late(world: World) -> None:
    job = await world.submit(await world.account())
    lease = await world.claim_one()
    listener = await world.database.listen(STOP_CHANNEL)
    standing = await intervene(world.database, job.id, "requeue", ADA)
    assert (standing["state"], standing["queue"], standing["hold"], standing["attempts"]) == (
        "queued",
        "ready",
        "held",
        0,
    )
    assert await anext(aiter(listener)) == (STOP_CHANNEL, str(job.id))
    await listener.close()
    assert not await world.database.fetch_value("SELECT permitted($1, $2)", job.id, lease.fence)
    assert await world.succeed(lease) == "stale"
    again = await world.claim_one()
    assert (again.job_id, again.fence > lease.fence) == (job.id, True)
    assert await world.succeed(again) == "succeeded"
    assert [attempt.outcome for attempt in (await world.reread(job)).attempts] == ["handed_back", "succeeded"]


async def test_a_requeue_gives_three_fresh_attempts(world: World) -> None:
    job = await world.submit(await world.account())
    for _ in range(2):
        await world.leases.hand_back(await world.claim_one(), "replica_died", counts=True)
    await intervene(world.database, job.id, "requeue", ADA)
    ends = [
        await world.leases.hand_back(await world.claim_one(), "replica_died", counts=True, failure=DIED)
        for _ in range(3)
    ]
    assert ends == ["queued", "queued", "failed"]


async def test_a_requeue_gives_twenty_fresh_starts_and_takes_none_away(world: World) -> None:
    job = await world.submit(await world.account())
    for _ in range(19):
        await world.leases.hand_back(await world.claim_one(), "storage_unavailable", counts=False)
    await world.claim_one()
    assert (await intervene(world.database, job.id, "requeue", ADA))["state"] == "queued"
    ends = [
        await world.leases.hand_back(await world.claim_one(), "storage_unavailable", counts=False) for _ in range(20)
    ]
    assert ends == ["queued"] * 19 + ["failed"]
    assert (await world.reread(job)).hold_state == "released"


async def test_a_waiting_job_that_is_requeued_keeps_its_place(world: World) -> None:
    jobs = await world.submit_many(await world.account(concurrency=2), 3)
    for job in jobs:
        await intervene(world.database, job, "requeue", ADA)
    assert ids(await world.serve(3)) == jobs


async def test_a_requeue_ends_what_its_caller_has_cancelled(world: World) -> None:
    account = await world.account(credit=PRICE)
    job = await world.submit(account)
    await world.claim_one()
    await world.jobs.cancel(account, job.id)
    assert (await intervene(world.database, job.id, "requeue", ADA))["state"] == "cancelled"
    assert await world.balance(account) == Balance(PRICE, 0, 0)


# Quarantine and release.


async def test_a_job_in_quarantine_waits_unclaimed_with_its_hold_and_comes_back_to_its_place(world: World) -> None:
    account = await world.account()
    jobs = await world.submit_many(account, 3)
    standing = await intervene(world.database, jobs[0], "quarantine", ADA)
    assert (standing["state"], standing["queue"], standing["hold"]) == ("queued", "quarantined", "held")
    assert (await world.reread(jobs[0])).state == "queued"
    assert ids(await world.serve(1)) == jobs[1:2]
    assert (await intervene(world.database, jobs[0], "release", ADA))["queue"] == "ready"
    assert ids(await world.serve(2)) == [jobs[0], jobs[2]]
    assert await world.counts("quarantine") == [0]


async def test_a_running_job_in_quarantine_loses_its_lease_and_no_attempt(world: World) -> None:
    job = await world.submit(await world.account())
    lease = await world.claim_one()
    standing = await intervene(world.database, job.id, "quarantine", ADA)
    assert (standing["queue"], standing["attempts"]) == ("quarantined", 0)
    assert await world.succeed(lease) == "stale"
    assert await world.claim() == []
    await intervene(world.database, job.id, "release", ADA)
    assert ids(await world.serve(1)) == [job.id]


async def test_the_twentieth_start_can_be_taken_away(world: World) -> None:
    job = await world.submit(await world.account())
    for _ in range(19):
        await world.leases.hand_back(await world.claim_one(), "handed_back", counts=False)
    await world.claim_one()
    assert (await intervene(world.database, job.id, "quarantine", ADA))["queue"] == "quarantined"
    await intervene(world.database, job.id, "release", ADA)
    assert ids(await world.serve(1)) == [job.id]


async def test_others_of_the_account_move_up_while_one_is_held_back(world: World) -> None:
    account = await world.account(concurrency=1)
    first, second, third = await world.submit_many(account, 3)
    await intervene(world.database, first, "quarantine", ADA)
    assert await world.queue(account) == ["quarantined", "ready", "parked"]
    await intervene(world.database, third, "quarantine", ADA)
    assert ids(await world.serve(3)) == [second]
    await intervene(world.database, third, "release", ADA)
    await intervene(world.database, first, "release", ADA)
    assert set(ids(await world.serve(3))) == {first, third}


async def test_a_parked_job_is_parked_again(world: World) -> None:
    account = await world.account(concurrency=1)
    jobs = await world.submit_many(account, 3)
    await intervene(world.database, jobs[1], "quarantine", ADA)
    await intervene(world.database, jobs[1], "release", ADA)
    assert await world.queue(account) == ["ready", "parked", "parked"]
    assert ids(await world.serve(3)) == jobs


async def test_a_segment_in_quarantine_is_publicly_running_and_goes_on_from_its_checkpoint(world: World) -> None:
    job = await world.submit(await world.account(), pools=("cpu", "gpu"))
    await world.leases.segment_end(await world.claim_one("cpu"), {"key": "k"})
    await intervene(world.database, job.id, "quarantine", ADA)
    assert (await world.reread(job)).state == "running"
    await world.leases.sweep(most_running=20)
    await intervene(world.database, job.id, "release", ADA)
    (lease,) = await world.claim()
    assert (lease.segment, lease.checkpoint) == (1, {"key": "k"})
    await world.succeed(lease)


async def test_a_released_job_is_found_above_the_floor(world: World) -> None:
    account = await world.account()
    jobs = await world.submit_many(account, 20)
    await intervene(world.database, jobs[0], "quarantine", ADA)
    await world.serve(10)
    for _ in range(3):
        await world.leases.sweep(most_running=20)
    assert await world.database.fetch_value("SELECT floor FROM pool WHERE name = 'gpu'") > 0
    await intervene(world.database, jobs[0], "release", ADA)
    assert ids(await world.serve(1)) == [jobs[0]]


async def test_the_callers_rights_stand_in_quarantine(world: World) -> None:
    account = await world.account(credit=4 * PRICE)
    cancelled = await world.submit(account)
    late = await world.submit(account)
    overdue = await world.submit(account, cancel_after_seconds=1)
    lost = await world.submit(account, pools=("cpu",))
    for job in (cancelled, late, overdue, lost):
        await intervene(world.database, job.id, "quarantine", ADA)
    await world.jobs.cancel(account, cancelled.id)
    await world.database.execute("UPDATE job SET start_by = now() - interval '1 s' WHERE id = $1", late.id)
    await world.database.execute("UPDATE job SET cancel_by = now() - interval '1 s' WHERE id = $1", overdue.id)
    await world.database.execute(
        "UPDATE pool SET retired = true, updated_at = now() - interval '2 hours' WHERE name = 'cpu'"
    )
    await world.leases.sweep(most_running=20)
    states = [(await world.reread(job)).state for job in (cancelled, late, overdue, lost)]
    assert states == ["cancelled", "failed", "cancelled", "failed"]
    assert await world.balance(account) == Balance(4 * PRICE, 0, 0)
    assert await world.counts("quarantine", "queue") == [0, 0]


async def test_a_running_job_whose_caller_has_cancelled_it_ends_instead(world: World) -> None:
    account = await world.account()
    job = await world.submit(account)
    await world.claim_one()
    await world.jobs.cancel(account, job.id)
    assert (await intervene(world.database, job.id, "quarantine", ADA))["state"] == "cancelled"
    assert await world.counts("quarantine") == [0]


# Poison.


async def test_a_job_that_used_up_its_attempts_fails_uncharged_and_is_kept_in_quarantine(world: World) -> None:
    account = await world.account(credit=PRICE)
    job = await world.submit(account)
    for _ in range(3):
        await world.leases.hand_back(await world.claim_one(), "replica_died", counts=True, failure=DIED)
    assert ((await world.reread(job)).failure, await world.balance(account)) == (DIED.as_json(), Balance(PRICE, 0, 0))
    row = await world.database.fetch_row("SELECT job_id, actor, reason FROM quarantine")
    assert tuple(row or ()) == (job.id, None, "3 attempts and 3 starts used up; the last ended with replica_died")
    for action in ("requeue", "quarantine"):
        with pytest.raises(JobHasEnded, match=r"has ended \(failed\)"):
            await intervene(world.database, job.id, action, ADA)
    assert (await intervene(world.database, job.id, "release", ADA))["hold"] == "released"
    assert await world.counts("quarantine") == [0]
    assert ((await world.reread(job)).state, await world.balance(account)) == ("failed", Balance(PRICE, 0, 0))
    with pytest.raises(JobHasEnded):
        await intervene(world.database, job.id, "release", ADA)


async def test_twenty_starts_are_poison_too(world: World) -> None:
    job = await world.submit(await world.account())
    for _ in range(20):
        await world.leases.hand_back(await world.claim_one(), "session_expired", counts=False)
    reason = await world.database.fetch_value("SELECT reason FROM quarantine WHERE job_id = $1", job.id)
    assert reason == "0 attempts and 20 starts used up; the last ended with session_expired"


async def test_an_attempt_that_is_said_to_be_the_last_is_poison_too(world: World) -> None:
    account = await world.account(credit=PRICE)
    job = await world.submit(account)
    await world.leases.hand_back(await world.claim_one(), "blank_output", counts=True, failure=DIED)
    lease = await world.claim_one()
    end = await world.leases.hand_back(lease, "blank_output", counts=True, failure=DIED, last=True)
    assert (end, (await world.reread(job)).failure, await world.balance(account)) == (
        "failed",
        DIED.as_json(),
        Balance(PRICE, 0, 0),
    )
    reason = await world.database.fetch_value("SELECT reason FROM quarantine WHERE job_id = $1", job.id)
    assert reason == "2 attempts and 2 starts used up; the last ended with blank_output"
    assert await world.leases.hand_back(lease, "blank_output", counts=True, last=True) == "stale"


async def test_a_failure_of_the_callers_making_is_no_poison(world: World) -> None:
    await world.submit(await world.account())
    await world.leases.settle(await world.claim_one(), "failed", Outcome(), DIED)
    assert await world.counts("quarantine") == [0]


# Refusals.


async def test_what_has_ended_is_refused_and_nothing_of_it_changes(world: World) -> None:
    account = await world.account(credit=3 * PRICE)
    done, gone = await world.submit(account), await world.submit(account)
    await world.serve(1)
    await world.jobs.cancel(account, gone.id)
    before = await world.database.fetch("SELECT * FROM job ORDER BY id"), await world.balance(account)
    for job, state in ((done, "succeeded"), (gone, "cancelled")):
        for action in ("requeue", "quarantine", "release"):
            with pytest.raises(JobHasEnded, match=rf"{encode('job', job.id)} has ended \({state}\)"):
                await intervene(world.database, job.id, action, ADA)
    assert (await world.database.fetch("SELECT * FROM job ORDER BY id"), await world.balance(account)) == before
    assert await world.counts("audit") == [0]


async def test_what_does_not_fit_is_refused(world: World) -> None:
    job = await world.submit(await world.account())
    with pytest.raises(NotInQuarantine):
        await intervene(world.database, job.id, "release", ADA)
    with pytest.raises(NoSuchJob):
        await intervene(world.database, uuid4(), "requeue", ADA)
    await intervene(world.database, job.id, "quarantine", ADA)
    with pytest.raises(InQuarantine):
        await intervene(world.database, job.id, "quarantine", ADA)
    with pytest.raises(NoSuchPool, match="there are cpu, gpu"):
        await command_pool(world.database, "gpus", "pause", ADA)
    assert await world.counts("audit") == [1]
    await intervene(world.database, job.id, "requeue", ADA)
    assert ids(await world.serve(1)) == [job.id]


@pytest.mark.parametrize("_round", range(4))
async def test_an_operator_and_a_worker_at_once_agree_on_one_end(world: World, _round: int) -> None:
    account = await world.account(credit=20 * PRICE, concurrency=50)
    await world.slots(gpu=20)
    await world.submit_many(account, 20)
    leases = await world.claim(32)
    changes = [
        intervene(world.database, lease.job_id, "requeue" if number % 2 else "quarantine", ADA)
        for number, lease in enumerate(leases)
    ]
    answers = await asyncio.gather(
        *(work for pair in zip(changes, map(world.succeed, leases), strict=True) for work in pair),
        return_exceptions=True,
    )
    for lease, changed, ended in zip(leases, answers[::2], answers[1::2], strict=True):
        state = (await world.reread(lease)).state
        if ended == "succeeded":
            assert (state, type(changed)) == ("succeeded", JobHasEnded)
        else:
            assert (state, ended) == ("queued", "stale")
    succeeded = sum(ended == "succeeded" for ended in answers[1::2])
    assert (await world.balance(account)).available + (await world.balance(account)).held == (20 - succeeded) * PRICE


# Pools.


async def test_a_paused_pool_is_left_alone_and_what_runs_in_it_goes_on(world: World) -> None:
    jobs = await world.submit_many(await world.account(), 2)
    lease = await world.claim_one()
    standing = await command_pool(world.database, "gpu", "pause", ADA)
    assert (standing["paused"], standing["drainBy"], standing["leased"]) == (True, None, 1)
    assert await world.claim() == []
    assert await world.succeed(lease) == "succeeded"
    assert not (await command_pool(world.database, "gpu", "resume", ADA))["paused"]
    assert ids(await world.serve(1)) == jobs[1:]


async def test_a_drain_hands_back_after_its_grace_uncounted_and_the_pool_stays_paused(world: World) -> None:
    await world.submit_many(await world.account(), 3)
    leases = await world.claim()
    await command_pool(world.database, "gpu", "drain", ADA, grace_seconds=60)
    await world.leases.sweep(most_running=20)
    assert await world.succeed(leases[0]) == "succeeded"
    await world.database.execute("UPDATE pool SET drain_by = now() - interval '1 s' WHERE drain_by IS NOT NULL")
    await world.leases.sweep(most_running=20)
    assert [await world.succeed(lease) for lease in leases[1:]] == ["stale", "stale"]
    assert await world.claim() == []
    actions = [(row.actor, row.action) for row in await interventions.audit(world.database)]
    assert actions == [("drain of gpu", "job.hand_back")] * 2 + [("ada@ops", "pool.drain")]
    await command_pool(world.database, "gpu", "resume", ADA)
    again = await world.claim()
    assert set(ids(again)) == set(ids(leases[1:]))
    assert [(await world.reread(lease)).attempts[0].outcome for lease in again] == ["handed_back"] * 2


async def test_who_waits_for_a_drain_ends_it_though_no_dispatcher_lives(world: World) -> None:
    job = await world.submit(await world.account())
    await world.claim_one()
    await command_pool(world.database, "gpu", "drain", ADA, grace_seconds=0)
    assert await drained(world.database, "gpu", 0) == 0
    assert await world.queue((await world.reread(job)).account_id) == ["ready"]
    assert await drained(world.database, "gpu", 0) == 0


async def test_a_pause_takes_a_drains_end_back_and_the_last_command_counts(world: World) -> None:
    await world.submit(await world.account())
    lease = await world.claim_one()
    await command_pool(world.database, "gpu", "drain", ADA, grace_seconds=0)
    await command_pool(world.database, "gpu", "pause", ADA)
    assert await world.leases.end_drains() == 0
    assert await world.succeed(lease) == "succeeded"


# Audit.


async def test_the_audit_says_who_when_what_why_and_how_it_stood(world: World) -> None:
    job = await world.submit(await world.account())
    lease = await world.claim_one()
    await intervene(world.database, job.id, "quarantine", ADA)
    await intervene(world.database, job.id, "release", Operator("bob@ops"))
    await command_pool(world.database, "cpu", "pause", ADA)
    pool, release, quarantine = await interventions.audit(world.database)
    assert (pool.action, pool.target, pool.before["paused"], pool.after["paused"]) == ("pool.pause", "cpu", False, True)
    name = encode("job", job.id)
    assert (release.actor, release.action, release.target, release.reason) == ("bob@ops", "job.release", name, None)
    assert (quarantine.actor, quarantine.reason) == ("ada@ops", "looks odd")
    assert now() - quarantine.at < timedelta(minutes=1)
    running = {"state": "running", "queue": "leased", "fence": lease.fence}
    assert {key: quarantine.before[key] for key in running} == running
    held = {"state": "queued", "queue": "quarantined", "fence": lease.fence + 1, "quarantine": "looks odd"}
    assert {key: quarantine.after[key] for key in held} == held
    assert (await interventions.audit(world.database, target=name)) == [release, quarantine]
    assert (await interventions.audit(world.database, target="cpu", limit=1)) == [pool]
    assert await interventions.audit(world.database, target="job_nonsense") == []


async def test_no_row_of_the_audit_can_be_changed_or_removed(world: World) -> None:
    await command_pool(world.database, "cpu", "pause", ADA)
    for statement in ("UPDATE audit SET actor = 'eve'", "DELETE FROM audit", "TRUNCATE audit"):
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await world.database.execute(statement)


async def test_what_cannot_be_audited_does_not_happen(world: World) -> None:
    job = await world.submit(await world.account())
    with pytest.raises(asyncpg.CheckViolationError):
        await intervene(world.database, job.id, "quarantine", Operator(""))
    with pytest.raises(asyncpg.CheckViolationError):
        await command_pool(world.database, "gpu", "pause", Operator(""))
    assert await world.counts("quarantine", "audit") == [0, 0]
    assert ids(await world.serve(1)) == [job.id]
