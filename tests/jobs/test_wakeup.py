"""Telling other processes: one NOTIFY for many asks, none without, and none lost because the database was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from core.database import Database, Listener
from core.ids import uuid7
from jobs import wakeup as module
from jobs.wakeup import CHANNEL, EVENT_CHANNEL, Wakeup


@pytest.fixture
async def wakeup(database: Database) -> AsyncIterator[Wakeup]:
    made = Wakeup(database)
    made.start()
    yield made
    await made.stop()


@pytest.fixture
async def listener(database: Database) -> AsyncIterator[Listener]:
    made = await database.listen(CHANNEL, EVENT_CHANNEL)
    yield made
    await made.close()


async def heard(listener: Listener) -> tuple[str, str]:
    return await asyncio.wait_for(anext(listener), 5)


async def test_many_asks_are_one_notification(wakeup: Wakeup, listener: Listener) -> None:
    for _ in range(100):
        wakeup.ask()
    assert await heard(listener) == (CHANNEL, "")
    await asyncio.sleep(0.1)
    assert listener._queue.empty()
    wakeup.ask()
    assert await heard(listener) == (CHANNEL, "")


async def test_jobs_with_events_are_named_once(wakeup: Wakeup, listener: Listener) -> None:
    jobs = [uuid7() for _ in range(3)]
    for job_id in jobs * 10:
        wakeup.tell(job_id)
    channel, payload = await heard(listener)
    assert (channel, {UUID(each) for each in payload.split(",")}) == (EVENT_CHANNEL, set(jobs))
    await asyncio.sleep(0.1)
    assert listener._queue.empty()


async def test_many_jobs_take_several_payloads(wakeup: Wakeup, listener: Listener) -> None:
    jobs = {uuid7() for _ in range(1000)}
    for job_id in jobs:
        wakeup.tell(job_id)
    wakeup.ask()
    assert await heard(listener) == (CHANNEL, "")
    found: set[UUID] = set()
    while found != jobs:
        channel, payload = await heard(listener)
        assert channel == EVENT_CHANNEL
        assert len(payload) < 8000
        named = {UUID(each) for each in payload.split(",")}
        assert named
        assert not named & found
        found |= named


async def test_too_many_jobs_are_all_jobs(wakeup: Wakeup, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOLD_MOST", 10)
    for _ in range(11):
        wakeup.tell(uuid7())
    assert await heard(listener) == (EVENT_CHANNEL, "")


async def test_what_was_told_while_the_database_was_away_is_sent(
    wakeup: Wakeup, listener: Listener, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = uuid7(), uuid7()
    wakeup.tell(first)
    assert await heard(listener) == (EVENT_CHANNEL, str(first))
    away = True
    direct = database.direct

    async def refusing() -> object:
        if away:
            raise ConnectionRefusedError
        return await direct()

    monkeypatch.setattr(database, "direct", refusing)
    assert wakeup._connection is not None
    await database.execute("SELECT pg_terminate_backend($1)", wakeup._connection.get_server_pid())
    wakeup.tell(second)
    wakeup.ask()
    await asyncio.sleep(0.1)
    assert listener._queue.empty()
    away = False
    assert [await heard(listener), await heard(listener)] == [(CHANNEL, ""), (EVENT_CHANNEL, str(second))]


async def test_stopping_what_never_started_is_no_error(database: Database) -> None:
    await Wakeup(database).stop()
