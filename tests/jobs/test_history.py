from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from core.clock import now
from core.database import Database
from core.ids import uuid7
from jobs import history, store
from tests.jobs.world import World

WEEK = timedelta(days=7)


@pytest.fixture
async def old_world(database: Database) -> World:
    """Like `world`, without its invariants: these tests take events away."""
    made = World(database)
    await made.open()
    return made


async def job(world: World, patch: pytest.MonkeyPatch, *, submitted: float, ended: float | None) -> UUID:
    """The id of a job that was submitted, and has ended unless None, so many days ago."""

    def then() -> UUID:
        milliseconds = int((now() - timedelta(days=submitted)).timestamp() * 1000)
        return UUID(int=uuid7().int & (1 << 80) - 1 | milliseconds << 80)

    account = await world.account()
    with patch.context() as patched:
        patched.setattr(store, "uuid7", then)
        made = await world.submit(account)
    if ended is not None:
        await world.jobs.cancel(account, made.id)
        finished = now() - timedelta(days=ended)
        await world.database.execute("UPDATE job SET finished_at = $2 WHERE id = $1", made.id, finished)
    return made.id


async def test_only_events_of_jobs_long_ended_are_removed(old_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_BATCH", 2)
    ages: list[dict[str, Any]] = [
        {"submitted": 30, "ended": None},
        {"submitted": 29, "ended": 6.9},
        {"submitted": 8, "ended": 7.1},
        {"submitted": 1, "ended": 0.5},
        *({"submitted": 20 - day, "ended": 20 - day} for day in range(5)),
    ]
    made = [await job(old_world, monkeypatch, **each) for each in ages]
    before = await old_world.counts("event")
    removed = await history.remove_events(old_world.database, now() - WEEK)
    left = {row[0] for row in await old_world.database.fetch("SELECT DISTINCT job_id FROM event")}
    assert left == {made[0], made[1], made[3]}
    assert before == [removed + count for count in await old_world.counts("event")]
    assert await history.remove_events(old_world.database, now() - WEEK) == 0
    assert await old_world.counts("job") == [len(made)]


async def test_nothing_at_all_is_nothing_to_remove(old_world: World) -> None:
    assert await history.remove_events(old_world.database, now()) == 0


async def test_a_hold_that_outlived_its_job_is_found(old_world: World) -> None:
    account = await old_world.account()
    broken, whole = await old_world.submit(account), await old_world.submit(account)
    assert await history.orphaned_holds(old_world.database) == (2, [])
    await old_world.database.execute(
        "UPDATE job SET state = 'cancelled', finished_at = clock_timestamp() WHERE id = $1", broken.id
    )
    assert await history.orphaned_holds(old_world.database) == (2, [account])
    await old_world.jobs.cancel(account, whole.id)
    assert await history.orphaned_holds(old_world.database) == (1, [account])
