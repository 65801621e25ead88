from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from core.clock import now
from core.database import Database
from core.ids import uuid7
from jobs import history, store
from tests.jobs.world import FAILURE, World

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


YEAR = timedelta(days=365)
HANGING = ("delivery_attempt", "delivery", "event", "stage", "attempt", "job_input", "quarantine")


async def ids(world: World) -> set[UUID]:
    return {row[0] for row in await world.database.fetch("SELECT id FROM job")}


async def test_only_jobs_long_ended_are_removed(old_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_JOBS_BATCH", 2)
    ages: list[dict[str, Any]] = [
        {"submitted": 900, "ended": None},
        {"submitted": 800, "ended": 364.9},
        {"submitted": 366, "ended": 365.1},
        {"submitted": 1, "ended": 0.5},
        *({"submitted": 500 - day, "ended": 500 - day} for day in range(5)),
    ]
    made = [await job(old_world, monkeypatch, **each) for each in ages]
    ledger = await old_world.counts("hold", "movement", "entry")
    assert await history.remove_jobs(old_world.database, now() - YEAR) == 6
    assert await ids(old_world) == {made[0], made[1], made[3]}
    assert await history.remove_jobs(old_world.database, now() - YEAR) == 0
    assert await old_world.counts("hold", "movement", "entry") == ledger
    left = {row[0] for row in await old_world.database.fetch("SELECT DISTINCT job_id FROM event")}
    assert left == {made[0], made[1], made[3]}


async def with_everything(world: World, patch: pytest.MonkeyPatch) -> UUID:
    """An old job that failed after its last attempt: whatever can hang on a job hangs on it."""
    old = UUID(int=uuid7().int & (1 << 80) - 1 | int((now() - 2 * YEAR).timestamp() * 1000) << 80)
    await world.database.execute("INSERT INTO input (sha256) VALUES (sha256('x')) ON CONFLICT DO NOTHING")
    with patch.context() as patched:
        patched.setattr(store, "uuid7", lambda: old)
        made = await world.submit(await world.account(), webhook_url="https://example.com/hook")
    await world.database.execute("INSERT INTO job_input (job_id, sha256) VALUES ($1, sha256('x'))", made.id)
    for _ in range(3):
        lease = await world.claim_one()
        await world.database.execute(
            "INSERT INTO stage (job_id, fence, name) VALUES ($1, $2, 'denoise')", lease.job_id, lease.fence
        )
        await world.leases.hand_back(lease, "replica_died", counts=True, failure=FAILURE)
    await world.database.execute(
        "WITH ended AS (UPDATE delivery SET state = 'failed', ended_at = clock_timestamp() WHERE job_id = $1 RETURNING id)"
        " INSERT INTO delivery_attempt (delivery_id, number, started_at, seconds, status)"
        " SELECT id, 1, clock_timestamp(), 1, 500 FROM ended",
        made.id,
    )
    await world.database.execute(
        "UPDATE job SET finished_at = $2, strays = false WHERE id = $1", made.id, now() - 2 * YEAR
    )
    return made.id


async def test_all_that_hangs_on_a_job_goes_with_it_and_the_rest_stays(
    old_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await with_everything(old_world, monkeypatch)
    counts = await old_world.counts(*HANGING)
    assert min(counts) >= 1, counts
    second = await with_everything(old_world, monkeypatch)
    await old_world.database.execute("UPDATE job SET finished_at = now() WHERE id = $1", first)
    assert await history.remove_jobs(old_world.database, now() - YEAR) == 1
    assert await ids(old_world) == {first}
    assert await old_world.counts(*HANGING) == counts
    assert second not in await ids(old_world)
    assert await old_world.counts("input", "hold", "account", "session") == [1, 2, 2, 1]


@pytest.mark.parametrize(
    ("needed", "let_go"),
    [
        ("UPDATE job SET strays = true", "UPDATE job SET strays = false"),
        (
            """UPDATE job SET outputs = '[{"key": "jobs/1/a"}]'""",
            "UPDATE job SET outputs_deleted_at = clock_timestamp()",
        ),
        (
            "UPDATE delivery SET state = 'pending', ended_at = NULL",
            "UPDATE delivery SET state = 'delivered', ended_at = clock_timestamp()",
        ),
    ],
    ids=["strays", "outputs", "a notice on its way"],
)
async def test_a_job_that_is_still_needed_stays_until_it_is_not(
    old_world: World, monkeypatch: pytest.MonkeyPatch, needed: str, let_go: str
) -> None:
    made = await with_everything(old_world, monkeypatch)
    await old_world.database.execute(needed)
    before = await old_world.counts("job", *HANGING)
    assert await history.remove_jobs(old_world.database, now() - YEAR) == 0
    assert await old_world.counts("job", *HANGING) == before
    await old_world.database.execute(let_go)
    assert await history.remove_jobs(old_world.database, now() - YEAR) == 1
    assert made not in await ids(old_world)


async def test_a_job_that_somebody_holds_is_left_for_the_next_time(
    old_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await with_everything(old_world, monkeypatch)
    async with old_world.database.transaction() as connection:
        # As whoever asks for a redelivery does.
        await connection.execute("SELECT FROM job WHERE id = $1 FOR NO KEY UPDATE", made)
        assert await history.remove_jobs(old_world.database, now() - YEAR) == 0
    assert await ids(old_world) == {made}
    assert await history.remove_jobs(old_world.database, now() - YEAR) == 1


async def test_sweeps_at_once_remove_each_job_once(old_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_JOBS_BATCH", 3)
    for day in range(20):
        await job(old_world, monkeypatch, submitted=500 + day, ended=500 + day)
    removed = await asyncio.gather(*(history.remove_jobs(old_world.database, now() - YEAR) for _ in range(4)))
    while again := await history.remove_jobs(old_world.database, now() - YEAR):
        removed.append(again)
    assert sum(removed) == 20
    assert await old_world.counts("job", "event") == [0, 0]


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
