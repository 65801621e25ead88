"""What keeps a replica to one job at a time, and to jobs that may go on; and that each guard is what does it.

Every property is asked twice: of the replica as it is, and of one without the guard, where it must not hold.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from core.database import Database
from deployments.messages import Call, Finished, Halted, Message, Progress
from jobs import permits
from jobs.permits import Permit
from tests.deployments.recording import Ask, Journal, RecordingReplica
from tests.deployments.test_replica import call, journal, replica, said
from tests.leasing import until_true

__all__ = ["call", "journal", "replica"]

STEPS = 40


class NoLock:
    """A lock that lets everybody in."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


class DeafToken(threading.Event):
    """A stop token that nobody sees set."""

    def is_set(self) -> bool:
        return False


async def always(_permit: Permit) -> bool:
    return True


async def never(_permit: Permit) -> None:
    await asyncio.sleep(3600)


async def cancel(database: Database, one: Call) -> None:
    account = await database.fetch_value("SELECT account_id FROM job WHERE id = $1", one.job_id)
    await database.execute("SELECT cancel($1, $2, NULL, NULL, NULL)", account, one.job_id)


async def overlapped(replica: RecordingReplica, journal: Journal, make: Callable[[Ask], Awaitable[Call]]) -> bool:
    """Whether a second call enters the engine before a first one, whose caller has gone, has left it."""
    first = replica.run(await make(Ask("first", steps=1000, lag_s=0.5)))
    await anext(first)
    await until_true(lambda: journal.events("first", "enter"), "the first call at work")
    second = asyncio.create_task(said(replica, await make(Ask("second"))))
    await asyncio.sleep(0.3)
    await first.aclose()
    await second
    await until_true(lambda: journal.events("first", "leave"), "the first call's end")
    return journal.at("second", "enter") < journal.at("first", "leave")


@pytest.mark.parametrize("guarded", [True, False])
async def test_the_lock_keeps_calls_apart(
    replica: RecordingReplica, journal: Journal, call: Callable[[Ask], Any], guarded: bool
) -> None:
    if not guarded:
        replica._lock = NoLock()  # type: ignore[assignment]
    assert await overlapped(replica, journal, call) is not guarded


@pytest.mark.parametrize("guarded", [True, False])
async def test_the_permit_keeps_a_late_call_from_the_engine(
    replica: RecordingReplica,
    journal: Journal,
    call: Callable[[Ask], Any],
    monkeypatch: pytest.MonkeyPatch,
    guarded: bool,
) -> None:
    if not guarded:
        monkeypatch.setattr(Permit, "held", always)
    one = await call(Ask("late"))
    await said(replica, Call(one.job_id, one.fence + 1, one.request))
    assert bool(journal.events("late", "enter")) is not guarded


async def heard(replica: RecordingReplica, database: Database, one: Call) -> Message:
    """The end of a call whose job is cancelled while the engine works."""
    stream = replica.run(one)
    async for message in stream:
        if isinstance(message, Progress) and message.step == 3:
            await cancel(database, one)
        end = message
    return end


@pytest.mark.parametrize("guarded", [True, False])
async def test_the_permit_ends_a_call_that_lost_it(
    replica: RecordingReplica,
    call: Callable[[Ask], Any],
    cluster_database: Database,
    monkeypatch: pytest.MonkeyPatch,
    guarded: bool,
) -> None:
    monkeypatch.setattr(permits, "REREAD_SECONDS", 0.05)
    if not guarded:
        monkeypatch.setattr(Permit, "_watch", never)
    end = await heard(replica, cluster_database, await call(Ask("cancelled", steps=STEPS, step_s=0.05)))
    assert isinstance(end, Halted if guarded else Finished)


@pytest.mark.parametrize("guarded", [True, False])
async def test_the_stop_token_reaches_the_engine(
    replica: RecordingReplica,
    journal: Journal,
    call: Callable[[Ask], Any],
    cluster_database: Database,
    monkeypatch: pytest.MonkeyPatch,
    guarded: bool,
) -> None:
    monkeypatch.setattr(permits, "REREAD_SECONDS", 0.05)
    if not guarded:
        monkeypatch.setattr("deployments.replica.threading", SimpleNamespace(Event=DeafToken))
    end = await heard(replica, cluster_database, await call(Ask("stopped", steps=STEPS, step_s=0.05)))
    assert isinstance(end, Halted if guarded else Finished)
    assert (len(journal.events("stopped", "step")) < STEPS) is guarded


async def test_the_time_of_release_is_measured_when_the_engine_has_returned(
    replica: RecordingReplica,
    journal: Journal,
    call: Callable[[Ask], Any],
    cluster_database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(permits, "REREAD_SECONDS", 0.05)
    end = await heard(replica, cluster_database, await call(Ask("measured", steps=1000, lag_s=0.7)))
    heard_at, clock = datetime.now(UTC), time.time() - time.monotonic()
    assert isinstance(end, Halted)
    left_at = datetime.fromtimestamp(journal.at("measured", "leave") + clock, UTC)
    # The journal's clock is another one, and is converted.
    assert left_at - timedelta(milliseconds=5) <= end.gpu_released_at <= heard_at
    assert end.gpu_seconds >= 0.7
