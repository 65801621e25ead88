"""Jobs that look stuck, for an operator to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from core.database import Database
from jobs.run_times import RunTimes
from tasks.registry import TASKS

Why = Literal["no_live_session", "runs_long", "waits_long", "quarantined", "poisoned"]

MEASURED_FACTOR, MEASURED_LEAST_SECONDS = 3.0, 60.0
"""A segment runs long beyond three times the 90th percentile of what was measured, and not before a minute."""
PRIOR_FACTOR, PRIOR_LEAST_SECONDS = 10.0, 600.0
"""Before enough were measured: beyond ten times its prior, which assumes a fast GPU, and not before ten minutes."""

_JOB = """job.id, job.account_id, job.task, job.state, coalesce(queue.pool, job.pools[job.segment + 1]) AS pool,
  job.attempts, job.starts"""

_RUNNING = f"""
SELECT {_JOB}, job.segment, job.effective_input, session.name AS session,
  extract(epoch FROM clock_timestamp() - attempt.started_at)::float8 AS seconds,
  session.ended_at IS NULL AND (session.beat_at > clock_timestamp() - session_expiry() OR restarting()) AS live
FROM queue JOIN job ON job.id = queue.job_id LEFT JOIN session ON session.id = job.session_id
  LEFT JOIN attempt ON attempt.job_id = job.id AND attempt.ended_at IS NULL
WHERE queue.state = 'leased' ORDER BY attempt.started_at
"""

_WAITING = f"""
SELECT {_JOB}, extract(epoch FROM clock_timestamp() - waits.since)::float8 AS seconds, pool.max_queue_seconds AS most
FROM pool JOIN queue ON queue.pool = pool.name AND queue.state IN ('parked', 'ready') JOIN job ON job.id = queue.job_id,
  LATERAL (SELECT coalesce(max(ended_at), job.created_at) AS since FROM attempt WHERE job_id = job.id) AS waits
WHERE waits.since < clock_timestamp() - pool.max_queue_seconds * interval '1 s' ORDER BY waits.since, job.id LIMIT $1
"""

_QUARANTINED = f"""
SELECT {_JOB}, quarantine.actor, quarantine.reason, job.failure ->> 'code' AS failure,
  extract(epoch FROM clock_timestamp() - quarantine.at)::float8 AS seconds
FROM quarantine JOIN job ON job.id = quarantine.job_id LEFT JOIN queue ON queue.job_id = job.id
ORDER BY quarantine.at DESC, job.id LIMIT $1
"""

_ATTEMPTS = """
SELECT attempt.job_id, attempt.fence, session.name AS session, attempt.started_at, attempt.ended_at, attempt.outcome,
  attempt.replica, (SELECT name FROM stage WHERE stage.job_id = attempt.job_id AND stage.fence = attempt.fence
    ORDER BY stage.started_at DESC LIMIT 1) AS stage
FROM attempt JOIN session ON session.id = attempt.session_id WHERE attempt.job_id = ANY ($1)
ORDER BY attempt.job_id, attempt.fence
"""


@dataclass(frozen=True)
class Evidence:
    """One attempt: the dispatcher that drove it, its last stage, and what it ended with."""

    fence: int
    session: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    replica: str | None
    stage: str | None


@dataclass(frozen=True)
class Stuck:
    """A job that looks stuck: why, for how many `seconds`, and `about` what an operator would ask next."""

    job_id: UUID
    account_id: UUID
    task: str
    state: str
    pool: str
    why: Why
    seconds: float
    attempts: int
    starts: int
    about: str
    evidence: Sequence[Evidence] = field(default=())


def _made(row: Mapping[str, Any], why: Why, about: str, evidence: Sequence[Evidence] = ()) -> Stuck:
    same = {name: row[name] for name in ("account_id", "task", "state", "pool", "attempts", "starts")}
    return Stuck(job_id=row["id"], why=why, seconds=row["seconds"] or 0.0, about=about, evidence=evidence, **same)


async def stuck(database: Database, *, limit: int = 100) -> list[Stuck]:
    """Jobs that run without a live session, run or wait longer than they should, or are in quarantine.

    At most `limit` of those that wait, and as many of those in quarantine.
    """
    found, run_times = [], RunTimes(database)
    for row in await database.fetch(_RUNNING):
        if not row["live"]:
            found.append(_made(row, "no_live_session", f"driven by {row['session']}, which is silent"))
            continue
        most, basis = await _longest(run_times, row)
        if row["seconds"] > most:
            found.append(_made(row, "runs_long", f"{row['session']} has it; {most:.0f} s at most, {basis}"))
    for row in await database.fetch(_WAITING, limit):
        found.append(_made(row, "waits_long", f"the pool's limit is {row['most']:g} s"))
    return found + await quarantined(database, limit=limit)


async def quarantined(database: Database, *, limit: int = 100) -> list[Stuck]:
    """Jobs in quarantine, newest first, with their attempts: held back by an operator, or failed after the last attempt."""
    rows = await database.fetch(_QUARANTINED, limit)
    evidence: dict[UUID, list[Evidence]] = {row["id"]: [] for row in rows}
    for attempt in await database.fetch(_ATTEMPTS, list(evidence)):
        evidence[attempt["job_id"]].append(Evidence(**{name: attempt[name] for name in Evidence.__dataclass_fields__}))
    return [
        _made(row, "poisoned", f"{row['failure']}: {row['reason']}", evidence[row["id"]])
        if row["actor"] is None
        else _made(row, "quarantined", f"by {row['actor']}: {row['reason']}", evidence[row["id"]])
        for row in rows
    ]


async def _longest(run_times: RunTimes, row: Mapping[str, Any]) -> tuple[float, str]:
    """How long the segment may run before it looks stuck, and by what that was judged."""
    task = TASKS[row["task"]]
    measured = await run_times.segment(task, row["effective_input"], row["segment"])
    if measured is None:
        return max(PRIOR_LEAST_SECONDS, PRIOR_FACTOR * task.prior_seconds(row["effective_input"])), "by its prior"
    return max(MEASURED_LEAST_SECONDS, MEASURED_FACTOR * measured.p90), "as measured"
