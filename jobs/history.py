"""What becomes of jobs long ended: their events go. What parted a job from its hold is found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from core.database import Database

_BATCH = 500
_FIRST = UUID(int=0)

_JOBS_WITH_EVENTS = """WITH RECURSIVE seen AS (
  (SELECT job_id FROM event WHERE job_id > $1 AND job_id < $2 ORDER BY job_id LIMIT 1)
  UNION ALL
  SELECT (SELECT event.job_id FROM event WHERE event.job_id > seen.job_id AND event.job_id < $2
          ORDER BY event.job_id LIMIT 1)
  FROM seen WHERE seen.job_id IS NOT NULL
)
SELECT job_id FROM seen WHERE job_id IS NOT NULL LIMIT $3"""


async def remove_events(database: Database, ended_before: datetime) -> int:
    """Remove the events of jobs that ended before that instant, a few hundred jobs at a time; returns how many events.

    The ids of jobs are in the order of their submits, so the oldest events come first and younger jobs are not looked at.
    """
    after, bound, removed = _FIRST, _first_id(ended_before), 0
    while True:
        rows = await database.fetch(_JOBS_WITH_EVENTS, after, bound, _BATCH)
        if not rows:
            return removed
        found = [row["job_id"] for row in rows]
        removed += await database.fetch_value(
            "WITH gone AS (DELETE FROM event USING job WHERE event.job_id = ANY ($1) AND job.id = event.job_id"
            " AND job.finished_at < $2 RETURNING 1) SELECT count(*) FROM gone",
            found,
            ended_before,
        )
        after = found[-1]


def _first_id(instant: datetime) -> UUID:
    """The smallest UUIDv7 of the millisecond."""
    return UUID(int=(instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) << 80)


async def orphaned_holds(database: Database) -> tuple[int, list[UUID]]:
    """How many holds are open, and the accounts of those whose job has ended; an empty list is the only good one."""
    row = await database.fetch_row(
        "WITH suspects AS MATERIALIZED (SELECT id, account_id FROM hold WHERE state = 'held'"
        " AND NOT EXISTS (SELECT FROM queue JOIN job ON job.id = job_id WHERE job_id = hold.id AND finished_at IS NULL))"
        " SELECT (SELECT count(*) FROM hold WHERE state = 'held') AS open, coalesce((SELECT array_agg(DISTINCT"
        " suspects.account_id) FROM suspects JOIN job USING (id) WHERE job.finished_at IS NOT NULL), '{}') AS accounts"
    )
    assert row is not None
    return row["open"], row["accounts"]


async def unbacked_jobs(database: Database) -> tuple[int, list[UUID]]:
    """How many jobs are unfinished, and the accounts of those without an open hold of their price or without their place in
    the queue; an empty list is the only good one."""
    row = await database.fetch_row(
        "WITH live AS MATERIALIZED (SELECT id, account_id, amount FROM job WHERE finished_at IS NULL)"
        " SELECT (SELECT count(*) FROM live) AS live, coalesce((SELECT array_agg(DISTINCT live.account_id) FROM live"
        " LEFT JOIN hold ON hold.id = live.id AND hold.state = 'held' LEFT JOIN queue ON queue.job_id = live.id"
        " WHERE hold.amount IS DISTINCT FROM live.amount OR queue.job_id IS NULL), '{}') AS accounts"
    )
    assert row is not None
    return row["live"], row["accounts"]
