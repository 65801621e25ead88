"""What becomes of jobs long ended: first their events go, then their records. What parted a job from its hold is found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from core.database import Database

_BATCH = 500
_JOBS_BATCH = 100
_FIRST = UUID(int=0)

_JOBS_WITH_EVENTS = """WITH RECURSIVE seen AS (
  (SELECT job_id FROM event WHERE job_id > $1 AND job_id < $2 ORDER BY job_id LIMIT 1)
  UNION ALL
  SELECT (SELECT event.job_id FROM event WHERE event.job_id > seen.job_id AND event.job_id < $2
          ORDER BY event.job_id LIMIT 1)
  FROM seen WHERE seen.job_id IS NOT NULL
)
SELECT job_id FROM seen WHERE job_id IS NOT NULL LIMIT $3"""

# What has files yet is passed over: whoever deletes them finds them by the job.
_OLD_JOBS = """SELECT id FROM job WHERE id > $1 AND id < $2 AND finished_at < $3 AND NOT strays
  AND (outputs = '[]'::jsonb OR outputs_deleted_at IS NOT NULL)
ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED"""
_REMOVALS = (
    "DELETE FROM delivery_attempt USING delivery WHERE delivery_id = delivery.id AND job_id = ANY ($1)",
    "DELETE FROM delivery WHERE job_id = ANY ($1)",
    "DELETE FROM event WHERE job_id = ANY ($1)",
    "DELETE FROM stage WHERE job_id = ANY ($1)",
    "DELETE FROM attempt WHERE job_id = ANY ($1)",
    "DELETE FROM job_input WHERE job_id = ANY ($1)",
    "DELETE FROM quarantine WHERE job_id = ANY ($1)",
    "DELETE FROM job WHERE id = ANY ($1)",
)


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


async def remove_jobs(database: Database, ended_before: datetime) -> int:
    """Remove the records of jobs that ended before that instant, with all that hangs on them; returns how many jobs.

    The ledger keeps their holds, movements and entries, and the audit what was done to them. A job whose files are not yet
    deleted, or with a notice on its way, stays until they are.
    """
    after, bound, removed = _FIRST, _first_id(ended_before), 0
    while True:
        async with database.transaction() as connection:
            rows = await connection.fetch(_OLD_JOBS, after, bound, ended_before, _JOBS_BATCH)
            if not rows:
                return removed
            found = [row["id"] for row in rows]
            # A statement of its own sees the deliveries that the lock on the job had to wait for.
            deliveries = await connection.fetch(
                "SELECT job_id, state FROM delivery WHERE job_id = ANY ($1) ORDER BY id FOR UPDATE", found
            )
            busy = {row["job_id"] for row in deliveries if row["state"] == "pending"}
            gone = [job_id for job_id in found if job_id not in busy]
            for removal in _REMOVALS:
                await connection.execute(removal, gone)
        removed += len(gone)
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
