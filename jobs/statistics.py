"""What the database knows of queues, holds and deliveries, for those who watch over the service."""

from __future__ import annotations

from dataclasses import dataclass

from core.database import Database

_POOLS = "SELECT name, slots, paused FROM pool WHERE NOT retired ORDER BY name"

# UUIDv7 sort by their time, and PostgreSQL before 18 has no min(uuid).
_QUEUES = """
WITH waiting AS (
  SELECT pool, CASE WHEN begun AND state = 'ready' THEN 'handed_back' ELSE state END AS state, count(*) AS jobs,
    sum(cost) AS seconds, min(job_id::text COLLATE "C") FILTER (WHERE NOT begun AND state IN ('parked', 'ready')) AS oldest
  FROM queue GROUP BY 1, 2
)
SELECT pool, state, jobs, seconds,
  (SELECT greatest(extract(epoch FROM clock_timestamp() - created_at)::float8, 0) FROM job WHERE id = oldest::uuid) AS age
FROM waiting ORDER BY pool, state
"""

_RUNNING = "SELECT task, count(*) AS jobs FROM job WHERE state = 'running' GROUP BY task ORDER BY task"

# An unfinished job always has a row in the queue, which is narrow; job itself is looked at only for the suspects.
_HOLDS = """
WITH suspects AS MATERIALIZED (
  SELECT id FROM hold WHERE state = 'held' AND NOT EXISTS (SELECT FROM queue WHERE queue.job_id = hold.id)
)
SELECT count(*) AS open, coalesce(sum(amount), 0)::bigint AS micros,
  (SELECT count(*) FROM suspects JOIN job USING (id) WHERE job.finished_at IS NOT NULL) AS ended
FROM hold WHERE state = 'held'
"""

_QUARANTINED = """
SELECT count(*) FILTER (WHERE actor IS NOT NULL) AS held, count(*) FILTER (WHERE actor IS NULL) AS poisoned FROM quarantine
"""

_DELIVERIES = """
SELECT count(*) AS pending, greatest(extract(epoch FROM clock_timestamp() - min(created_at))::float8, 0) AS age
FROM delivery WHERE state = 'pending'
"""


@dataclass(frozen=True)
class PoolStatistics:
    """A pool of the fleet and the replicas it has ready."""

    name: str
    slots: int
    paused: bool


@dataclass(frozen=True)
class QueueStatistics:
    """Jobs of a pool in one state, with their estimated seconds of work.

    States are `parked`, `ready`, `handed_back`, `leased` and `quarantined`. `age`: seconds since the submit of the oldest
    that has not begun and is not held back; None when there is none.
    """

    pool: str
    state: str
    jobs: int
    seconds: float
    age: float | None


@dataclass(frozen=True)
class HoldStatistics:
    """Open holds and their sum; `ended` are those whose job has ended, which must not be."""

    open: int
    micros: int
    ended: int


@dataclass(frozen=True)
class DeliveryStatistics:
    """Webhooks not yet delivered nor given up; `age` in seconds of the oldest, None when there is none."""

    pending: int
    age: float | None


async def pools(database: Database) -> list[PoolStatistics]:
    """Every pool of the fleet."""
    return [PoolStatistics(**row) for row in await database.fetch(_POOLS)]


async def queues(database: Database) -> list[QueueStatistics]:
    """Every pool and state that has a job."""
    return [QueueStatistics(**row) for row in await database.fetch(_QUEUES)]


async def running(database: Database) -> dict[str, int]:
    """Running jobs by task."""
    return {row["task"]: row["jobs"] for row in await database.fetch(_RUNNING)}


async def quarantined(database: Database) -> dict[str, int]:
    """Jobs in quarantine: `held` back by an operator, and `poisoned`, failed after their last attempt."""
    row = await database.fetch_row(_QUARANTINED)
    assert row is not None
    return dict(row)


async def holds(database: Database) -> HoldStatistics:
    """Money that is set aside."""
    row = await database.fetch_row(_HOLDS)
    assert row is not None
    return HoldStatistics(**row)


async def deliveries(database: Database) -> DeliveryStatistics:
    """Webhooks under way."""
    row = await database.fetch_row(_DELIVERIES)
    assert row is not None
    return DeliveryStatistics(**row)
