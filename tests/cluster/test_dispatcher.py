"""A dispatcher in this process, over a real database; its replicas are a double of the Serve handle."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from ray.exceptions import ActorDiedError, RayError

from accounts.keys import Keys
from cluster import conversation, dispatcher, fleet, work
from cluster.dispatcher import app
from cluster.seeds import derived
from cluster.steps import Steps
from core.database import Database
from core.settings import Settings
from deployments.messages import Call, Halted, Message
from jobs import events, leases
from jobs.events import Hub
from jobs.interventions import Operator, command_pool, intervene
from jobs.leases import Leases, Outcome
from jobs.stuck import quarantined
from media.errors import InvalidMedia
from storage import StoreUnavailable, open_store
from tasks.registry import TASKS
from tests.cluster.dispatching import (
    INPUT,
    POOL,
    Dispatching,
    Made,
    dispatching,
    dying,
    ended,
    failing,
    faulty,
    halting,
    in_turn,
    painting,
)
from tests.cluster.doubles import (
    RELEASED,
    STARTED,
    Stoppable,
    finished,
    silence,
)
from tests.leasing import CREDIT, PRICE, job_of, money, outcomes, submitted, until_true

__all__ = ["dispatching"]


async def test_a_job_is_made_published_and_paid_once(dispatching: Dispatching, database: Database) -> None:
    dispatching.start()
    job = await ended(database, await submitted(database, POOL, INPUT))
    assert (job.state, job.progress, job.failure) == ("succeeded", 1.0, None)
    assert [(each["role"], each["mimeType"], each["width"], each["height"]) for each in job.outputs] == [
        ("primary", "image/webp", 64, 64),
        ("thumbnail", "image/webp", 64, 64),
    ]
    assert len(job.outputs[0]["blurhash"]) == 28
    assert "blurhash" not in job.outputs[1]
    assert (job.engine, job.weights_digest, job.stand_in) == ("double", "sha256:00", True)
    assert job.upstream == {"seed": 7}
    assert [stage.name for stage in job.stages] == [POOL, "encode", "publish"]
    assert (outcomes(job), job.attempts[0].replica) == (["succeeded"], "replica-1")
    assert await money(database, job) == (CREDIT - PRICE, 0)


async def test_whoever_follows_a_job_is_told_by_notification(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 3600.0)
    hub = Hub(database, Keys(database, b"pepper"))
    hub.start()
    job = await submitted(database, POOL, INPUT)
    found: list[str] = []
    with hub.watch(job.id, 1) as watch:
        await asyncio.sleep(0.5)
        dispatching.start()
        async with asyncio.timeout(60):
            while "succeeded" not in found:
                found += [each.data.get("status", each.data.get("stage", each.type)) for each in await watch.take()]
    await hub.stop()
    assert [each for each in found if each != "progress"] == ["running", POOL, "encode", "publish", "succeeded"]


async def test_a_jobs_output_feeds_the_next_job_of_the_same_account(
    dispatching: Dispatching, database: Database
) -> None:
    handle = dispatching.start()
    first = await ended(database, await submitted(database, POOL, INPUT))
    url = f"https://api.example.test/objects/{first.outputs[0]['key']}?expires=1&filename=a&signature=old"
    given = {**INPUT, "referenceImages": [url]}
    job = await ended(database, await submitted(database, POOL, given, account_id=first.account_id))
    assert (job.state, job.failure) == ("succeeded", None)
    assert [stage.name for stage in job.stages] == ["fetch", "qwen-image-edit", "encode", "publish"]
    (reference,) = handle.streams[1].call.request.references
    assert (await reference).shape == (64, 64, 3), "a reference, and no pixels, went through the dispatcher"

    stranger = await ended(database, await submitted(database, POOL, given))
    await database.execute("UPDATE job SET outputs_deleted_at = clock_timestamp() WHERE id = $1", first.id)
    late = await ended(database, await submitted(database, POOL, given, account_id=first.account_id))
    for failed, code in ((stranger, "fetch_failed"), (late, "output_expired")):
        assert failed.failure is not None
        assert (failed.state, failed.failure["code"], failed.failure["retryable"]) == ("failed", code, False)
        assert len(failed.attempts) == 1
    assert await money(database, stranger) == (CREDIT, 0)
    assert len(handle.streams) == 2


async def test_its_picture_tells_its_recipe_and_not_its_prompt(dispatching: Dispatching, database: Database) -> None:
    dispatching.start()
    job = await ended(database, await submitted(database, POOL, INPUT))
    content = open_store(Settings(), base_url="").read(job.outputs[0]["key"])
    recipe = re.search(rb"<killatamata:Recipe>(.*)</killatamata:Recipe>", content)
    assert recipe is not None
    told = json.loads(recipe[1])
    assert (told["task"], told["engine"], told["weightsDigest"], told["standIn"]) == (
        job.task, job.engine, job.weights_digest, True,
    )  # fmt: skip
    assert (told["seed"], told["effectiveInputSha256"]) == (7, TASKS[job.task].hash_input(INPUT, seed_drawn=False))
    assert b"a fox" not in content
    assert str(job.id).encode() not in content


async def test_an_engine_that_fails_three_times_fails_the_job_at_no_cost(
    dispatching: Dispatching, database: Database
) -> None:
    handle = dispatching.start(failing)
    job = await ended(database, await submitted(database, POOL, INPUT))
    assert job.state == "failed"
    assert job.failure is not None
    assert (job.failure["code"], job.failure["retryable"]) == ("device_lost", True)
    assert "bus" not in job.failure["message"]
    assert outcomes(job) == ["device_lost"] * 3
    assert len({stream.call.fence for stream in handle.streams}) == len(handle.streams) == 3
    assert {stream.call.request.seed for stream in handle.streams} == {INPUT["seed"]}
    assert await money(database, job) == (CREDIT, 0)


async def test_an_output_of_no_use_is_retried_once_with_a_derived_seed_and_then_fails_at_no_cost(
    dispatching: Dispatching, database: Database
) -> None:
    handle = dispatching.start(faulty)
    job = await ended(database, await submitted(database, POOL, INPUT))
    assert job.state == "failed"
    assert job.failure is not None
    assert (job.failure["code"], job.failure["retryable"]) == ("non_finite_output", True)
    assert "NaN" not in job.failure["message"]
    assert job.failure["message"].endswith("even with another seed; nothing was charged.")
    assert outcomes(job) == ["non_finite_output", "non_finite_output"]
    assert [stream.call.request.seed for stream in handle.streams] == [7, derived(7, 1)]
    assert await money(database, job) == (CREDIT, 0)
    (kept,) = await quarantined(database)
    assert (kept.job_id, kept.why) == (job.id, "poisoned")
    assert kept.about.endswith("2 attempts and 2 starts used up; the last ended with non_finite_output")


async def test_a_derived_seed_is_told_and_survives_a_replica_that_dies(
    dispatching: Dispatching, database: Database
) -> None:
    handle = dispatching.start(in_turn(faulty, dying, painting))
    job = await ended(database, await submitted(database, POOL, INPUT))
    assert (job.state, outcomes(job)) == ("succeeded", ["non_finite_output", "replica_died", "succeeded"])
    assert [stream.call.request.seed for stream in handle.streams] == [7, derived(7, 1), derived(7, 1)]
    (change,) = job.input_adjustments
    assert (change["field"], change["from"], change["to"], change["at"]) == ("seed", 7, derived(7, 1), "run")
    assert await money(database, job) == (CREDIT - PRICE, 0)


async def test_a_job_whose_replica_was_killed_succeeds_in_its_second_attempt_at_one_charge(
    dispatching: Dispatching, database: Database
) -> None:
    dispatching.start(in_turn(dying, painting))
    job = await ended(database, await submitted(database, POOL, INPUT))
    assert (job.state, outcomes(job)) == ("succeeded", ["replica_died", "succeeded"])
    assert await money(database, job) == (CREDIT - PRICE, 0)


async def test_waiting_for_a_replica_is_no_attempt(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "REPLICA_WAIT_SECONDS", 0.05)

    async def stillborn(call: Call) -> AsyncIterator[Message]:
        if call.fence:
            raise ActorDiedError
        yield STARTED

    dispatching.start(in_turn(silence, stillborn, silence, stillborn, painting))
    job = await ended(database, await submitted(database, POOL, INPUT))
    assert job.state == "succeeded"
    assert outcomes(job) == ["succeeded"]


def refusing(folder: str, files: list[tuple[str, str]], *contents: bytes) -> list[dict[str, Any]]:
    raise StoreUnavailable("SlowDown", "wait")


async def test_a_store_that_is_away_counts_as_no_attempt(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_STORE_AWAY_SECONDS", 0.05)
    remote, tries = work.remote, itertools.count(1)

    def away_at_first(function: Any, *arguments: Any) -> Any:
        away = function is work.publish and next(tries) <= 4
        return remote(refusing if away else function, *arguments)

    monkeypatch.setattr(work, "remote", away_at_first)
    dispatching.start()
    job = await ended(database, await submitted(database, POOL, INPUT))
    assert (job.state, outcomes(job)) == ("succeeded", ["storage_unavailable"] * 4 + ["succeeded"])
    assert await money(database, job) == (CREDIT - PRICE, 0)


async def test_a_job_that_waits_for_the_store_can_be_cancelled_at_once(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()

    async def chain(steps: Steps) -> Outcome:
        tried.set()
        raise StoreUnavailable("SlowDown", "wait")

    monkeypatch.setattr(dispatcher, "CHAINS", {"test": (chain,)})
    dispatching.start()
    job = await submitted(database, POOL, task="test")
    await tried.wait()
    await database.execute("SELECT cancel($1, $2, NULL, NULL, NULL)", job.account_id, job.id)
    found = await asyncio.wait_for(ended(database, job), 10)
    assert (found.state, outcomes(found)) == ("cancelled", ["storage_unavailable"])
    assert await money(database, found) == (CREDIT, 0)


async def test_a_halt_that_nobody_asked_for_gives_the_job_back_and_not_at_once(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_UNAVAILABLE_SECONDS", 0.4)
    handle = dispatching.start(in_turn(halting, painting))
    job = await ended(database, await submitted(database, POOL, INPUT))
    assert (job.state, outcomes(job)) == ("succeeded", ["stopped", "succeeded"])
    first, second = job.attempts
    assert len(handle.streams) == 2
    assert (second.started_at - first.started_at).total_seconds() >= 0.4


async def test_a_cancelled_running_job_ends_when_its_engine_has_stopped(
    dispatching: Dispatching, database: Database
) -> None:
    engine = Stoppable()
    dispatching.start(engine.answer)
    job = await submitted(database, POOL, INPUT)
    await engine.began.wait()
    await database.execute("SELECT cancel($1, $2, NULL, NULL, NULL)", job.account_id, job.id)
    await asyncio.sleep(0.2)
    assert (await job_of(database, job)).finished_at is None, "the engine still holds its GPU"
    engine.lost.set()
    found = await ended(database, job)
    assert (found.state, found.stopped_at_step, found.gpu_released_at) == ("cancelled", 2, RELEASED)
    assert await money(database, found) == (CREDIT, 0)


async def test_a_cancelled_job_that_no_replica_took_ends_at_once(dispatching: Dispatching, database: Database) -> None:
    handle = dispatching.start(silence)
    job = await submitted(database, POOL, INPUT)
    await until_true(lambda: handle.streams, "the call")
    await database.execute("SELECT cancel($1, $2, NULL, NULL, NULL)", job.account_id, job.id)
    found = await ended(database, job)
    assert (found.state, found.stopped_at_step) == ("cancelled", None)
    assert handle.streams[0].cancelled


async def test_media_that_cannot_be_used_fail_the_job_at_once(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chain(steps: Steps) -> Outcome:
        raise InvalidMedia("The picture is broken.")

    monkeypatch.setattr(dispatcher, "CHAINS", {"test": (chain,)})
    dispatching.start()
    job = await ended(database, await submitted(database, POOL, task="test"))
    assert job.failure == {"code": "invalid_media", "message": "The picture is broken.", "retryable": False}
    assert len(job.attempts) == 1
    assert await money(database, job) == (CREDIT, 0)


async def test_a_step_of_ours_that_breaks_is_tried_three_times(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chain(steps: Steps) -> Outcome:
        raise ZeroDivisionError("with a prompt in its text")

    monkeypatch.setattr(dispatcher, "CHAINS", {"test": (chain,)})
    dispatching.start()
    job = await ended(database, await submitted(database, POOL, task="test"))
    assert job.failure is not None
    assert job.failure["code"] == "step_failed"
    assert "prompt" not in job.failure["message"]
    assert outcomes(job) == ["step_failed"] * 3


async def test_a_task_without_a_chain_fails_and_does_not_hang(dispatching: Dispatching, database: Database) -> None:
    dispatching.start()
    job = await ended(database, await submitted(database, POOL, task="of another version"))
    assert job.state == "failed"
    assert await money(database, job) == (CREDIT, 0)


@pytest.mark.parametrize("unwritable", [object(), math.nan], ids=["no JSON", "NaN"])
async def test_an_outcome_that_cannot_be_written_is_a_failed_attempt_and_no_job_without_end(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch, unwritable: Any
) -> None:
    async def chain(steps: Steps) -> Outcome:
        return Outcome(upstream={"seconds": unwritable})

    monkeypatch.setattr(dispatcher, "CHAINS", {"test": (chain,)})
    dispatching.start()
    job = await ended(database, await submitted(database, POOL, task="test"))
    assert (job.state, outcomes(job)) == ("failed", ["step_failed"] * 3)
    assert await money(database, job) == (CREDIT, 0)


async def test_a_drain_hands_back_and_claims_nothing_until_it_is_over(
    dispatching: Dispatching, database: Database
) -> None:
    handle = dispatching.start(in_turn(Stoppable().answer, painting))
    job = await submitted(database, POOL, INPUT)
    await until_true(lambda: handle.streams, "the call")
    await leases.drain(database, 0)
    found = await job_of(database, job)
    assert (found.state, outcomes(found)) == ("queued", ["handed_back"])
    await asyncio.sleep(1.0)
    assert len(handle.streams) == 1
    assert handle.streams[0].cancelled
    await leases.resume(database)
    found = await ended(database, job)
    assert (found.state, outcomes(found)) == ("succeeded", ["handed_back", "succeeded"])


async def test_a_job_that_an_operator_requeues_is_stopped_and_made_anew_at_one_charge(
    dispatching: Dispatching, database: Database
) -> None:
    stuck = Stoppable()
    handle = dispatching.start(in_turn(stuck.answer, painting))
    job = await submitted(database, POOL, INPUT)
    await stuck.began.wait()
    await intervene(database, job.id, "requeue", Operator("ada@ops"))
    found = await ended(database, job)
    stuck.lost.set()
    assert (found.state, outcomes(found)) == ("succeeded", ["handed_back", "succeeded"])
    assert len(handle.streams) == 2
    await until_true(lambda: not dispatching.started[0]._running, "the first lease is put away")
    assert await money(database, found) == (CREDIT - PRICE, 0)


async def test_a_pool_that_an_operator_drains_is_emptied_by_the_dispatchers_and_waits_for_its_resume(
    dispatching: Dispatching, database: Database
) -> None:
    handle = dispatching.start(in_turn(Stoppable().answer, painting))
    job = await submitted(database, POOL, INPUT)
    await until_true(lambda: handle.streams, "the call")
    await command_pool(database, POOL, "drain", Operator("ada@ops"), grace_seconds=0.5)

    async def back() -> bool:
        return (await job_of(database, job)).state == "queued"

    await until_true(back, "the job is handed back")
    await asyncio.sleep(1.0)
    assert len(handle.streams) == 1, "a drained pool is paused"
    await command_pool(database, POOL, "resume", Operator("ada@ops"))
    found = await ended(database, job)
    assert (found.state, outcomes(found)) == ("succeeded", ["handed_back", "succeeded"])


async def test_a_session_that_was_reclaimed_is_left_with_all_its_work(
    dispatching: Dispatching, database: Database
) -> None:
    handle = dispatching.start(in_turn(Stoppable().answer, painting))
    job = await submitted(database, POOL, INPUT)
    await until_true(lambda: handle.streams, "the call")
    (session,) = await database.fetch("SELECT id FROM session WHERE ended_at IS NULL")
    await Leases(database).close_session(session["id"])
    found = await ended(database, job)
    assert (found.state, len(found.attempts)) == ("succeeded", 2)
    assert handle.streams[0].cancelled
    assert await money(database, found) == (CREDIT - PRICE, 0)
    await dispatching.started[0].check_health()


async def test_a_dispatcher_whose_beats_hang_stops_its_jobs(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "SESSION_EXPIRY_SECONDS", 1.0)
    handle = dispatching.start(Stoppable().answer)
    await submitted(database, POOL, INPUT)
    await until_true(lambda: handle.streams, "the call")

    async def swallowed(*_: Any) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(Leases, "beat", swallowed)
    await until_true(lambda: handle.streams[0].cancelled, "the call cancelled", 4)


async def test_short_outages_of_the_database_disturb_no_running_job(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Stoppable()

    async def lasting(call: Call) -> AsyncIterator[Message]:
        async for message in engine.answer(call):
            if isinstance(message, Halted):
                yield finished(Made())
            else:
                yield message

    handle = dispatching.start(lasting)
    job = await submitted(database, POOL, INPUT)
    await engine.began.wait()
    real_claim, real_beat = Leases.claim, Leases.beat

    async def away(*_: Any) -> None:
        raise asyncpg.CannotConnectNowError("the database system is starting up")

    monkeypatch.setattr(Leases, "claim", away)
    monkeypatch.setattr(Leases, "beat", away)
    await asyncio.sleep(2.5)
    monkeypatch.setattr(Leases, "claim", real_claim)
    monkeypatch.setattr(Leases, "beat", real_beat)
    assert not handle.streams[0].cancelled
    engine.lost.set()
    found = await ended(database, job)
    assert (found.state, len(found.attempts)) == ("succeeded", 1)


async def test_a_claim_whose_answer_was_lost_leaves_no_job_behind_and_harms_no_other(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Stoppable()
    handle = dispatching.start(in_turn(engine.answer, painting))
    running = await submitted(database, POOL, INPUT)
    await engine.began.wait()
    real_claim = Leases.claim
    lost: list[Any] = []

    async def claim(self: Leases, pool: str, most: int, session: int) -> Any:
        got = await real_claim(self, pool, most, session)
        if got and not lost:
            lost.extend(got)
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        return got

    monkeypatch.setattr(Leases, "claim", claim)
    job = await ended(database, await submitted(database, POOL, INPUT))
    assert [lease.job_id for lease in lost] == [job.id]
    assert (job.state, outcomes(job)) == ("succeeded", ["claim_lost", "succeeded"])
    assert (await job_of(database, running)).attempts[0].ended_at is None
    assert not handle.streams[0].cancelled


async def test_a_claim_that_was_committed_after_its_connection_was_lost_leaves_no_job_behind(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "STRAY_LOOK_SECONDS", 0.2)
    dispatching.start()
    session: int = await until_true(
        lambda: database.fetch_value("SELECT id FROM session WHERE ended_at IS NULL"), "the session"
    )
    async with database.transaction() as connection:
        job = await submitted(database, POOL, INPUT)
        await connection.fetch("SELECT job_id FROM claim($1, 1, $2)", POOL, session)
    found = await ended(database, job)
    assert (found.state, outcomes(found)) == ("succeeded", ["claim_lost", "succeeded"])


async def test_a_job_claimed_again_before_its_first_lease_was_put_away_can_still_be_stopped(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Leases.hand_back
    lost: list[str] = []

    async def hand_back(self: Leases, *arguments: Any, **named: Any) -> Any:
        done = await real(self, *arguments, **named)
        if not lost:
            lost.append(done)
            raise asyncpg.ConnectionDoesNotExistError("the answer is lost")
        return done

    monkeypatch.setattr(Leases, "hand_back", hand_back)
    engine = Stoppable()
    dispatching.start(in_turn(dying, engine.answer))
    job = await submitted(database, POOL, INPUT)
    await engine.began.wait()
    await asyncio.sleep(0.8)
    assert lost == ["queued"]
    assert len(dispatching.started[0]._running) == 1, "the end of the first lease must not forget the second"
    await database.execute("SELECT cancel($1, $2, NULL, NULL, NULL)", job.account_id, job.id)
    engine.lost.set()
    assert (await ended(database, job)).state == "cancelled"


async def test_no_trouble_around_the_loops_ends_them(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_controller() -> dict[str, int]:
        raise RayError("the controller is away")

    monkeypatch.setattr(fleet, "slots", no_controller)
    dispatching.start()
    await asyncio.sleep(0.5)
    await database.execute("SELECT pg_notify('job_stop', 'no uuid at all')")
    await asyncio.sleep(0.5)
    await dispatching.started[0].check_health()
    assert (await ended(database, await submitted(database, POOL, INPUT))).state == "succeeded"
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert (await ended(database, await submitted(database, POOL, INPUT))).state == "succeeded"
    await dispatching.started[0].check_health()


async def test_a_serve_that_stays_silent_makes_the_dispatcher_unhealthy(
    dispatching: Dispatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hanging() -> dict[str, int]:
        raise TimeoutError

    monkeypatch.setattr(fleet, "slots", hanging)
    dispatching.start()
    (started,) = dispatching.started
    await started.check_health()
    await until_true(lambda: started._unanswered >= dispatcher.UNANSWERED_MOST, "three questions")
    with pytest.raises(RuntimeError, match="Serve does not answer"):
        await started.check_health()


async def test_a_dispatcher_that_does_not_turn_or_has_ended_is_unhealthy(
    dispatching: Dispatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatching.start()
    (started,) = dispatching.started
    await started.check_health()
    monkeypatch.setattr(dispatcher, "STUCK_SECONDS", -1)
    with pytest.raises(RuntimeError, match="does not turn"):
        await started.check_health()
    started._main.cancel()
    await asyncio.wait({started._main})
    with pytest.raises((RuntimeError, asyncio.CancelledError)):
        await started.check_health()


async def test_two_dispatchers_share_the_queue_and_one_of_them_leads(
    dispatching: Dispatching, database: Database
) -> None:
    first, second = dispatching.start(), dispatching.start()
    jobs = [await submitted(database, POOL, INPUT) for _ in range(6)]
    found = [await ended(database, job) for job in jobs]
    assert [outcomes(job) for job in found] == [["succeeded"]] * 6
    assert len(first.streams) + len(second.streams) == 6
    leaders = await database.fetch_value(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = $1"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        dispatcher._ELECTION_LOCK,
    )
    assert leaders == 1


async def test_no_task_is_left_when_a_dispatcher_ends(dispatching: Dispatching, database: Database) -> None:
    before = asyncio.all_tasks()
    handle = dispatching.start(Stoppable().answer)
    await submitted(database, POOL, INPUT)
    await until_true(lambda: handle.streams, "the call")
    await dispatching.end()
    dispatching.started.clear()
    await until_true(lambda: asyncio.all_tasks() <= before, "every task of the dispatcher ended", 5)
    assert handle.streams[0].cancelled


def test_a_dispatcher_takes_no_args(monkeypatch: pytest.MonkeyPatch) -> None:
    assert app({})._bound_deployment.name == "Dispatcher"
    with pytest.raises(ValueError, match="takes no args"):
        app({"pool": "x"})
