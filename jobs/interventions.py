"""What an operator does to a job or a pool by hand. Each leaves a row of the audit, in the same transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import asyncpg

from core.database import Database
from core.errors import OperatorError
from core.ids import decode, encode
from jobs.leases import Leases

PREFIX = "job"
_LOOK_SECONDS = 0.2


class NoSuchJob(OperatorError):
    """There is no job of that id."""


class JobHasEnded(OperatorError):
    """The job has ended, and its money is settled."""


class NotInQuarantine(OperatorError):
    """Nobody holds the job back."""


class InQuarantine(OperatorError):
    """The job is held back already."""


class NoSuchPool(OperatorError):
    """There is no pool of that name."""


@dataclass(frozen=True)
class Operator:
    """Who does it, and why if they say so."""

    actor: str
    reason: str | None = None


@dataclass(frozen=True)
class Audited:
    """A row of the audit: how `target` (a job's or a pool's name) stood before and after."""

    id: int
    at: datetime
    actor: str
    action: str
    target: str
    reason: str | None
    before: Mapping[str, Any]
    after: Mapping[str, Any]


def _refused(error: Any, target: str) -> OperatorError | asyncpg.PostgresError:
    detail = error.detail
    match error.sqlstate:
        case "KT450":
            return NoSuchJob(f"there is no job {target}; killatamata jobs stuck lists those that need somebody")
        case "KT451":
            return JobHasEnded(
                f"{target} has ended ({detail}) and its money is settled, so nothing runs it again; a new submit would"
            )
        case "KT452":
            return NotInQuarantine(
                f"{target} is not in quarantine; killatamata jobs stuck --quarantined lists those that are"
            )
        case "KT453":
            return InQuarantine(f"{target} is in quarantine already; killatamata jobs release {target} lets it go")
        case "KT454":
            return NoSuchPool(f"there is no pool {target!r}; there are {detail or 'none'}")
        case _:
            assert isinstance(error, asyncpg.PostgresError)
            return error


async def intervene(
    database: Database, job_id: UUID, action: Literal["requeue", "quarantine", "release"], by: Operator
) -> dict[str, Any]:
    """Requeue, hold back or let go a job; returns how it stands then.

    `requeue`: back in line with fresh attempts; a running job loses its lease. `quarantine`: held back, its hold of money
    kept. `release`: the end of a quarantine. A job whose caller asked for a cancel meanwhile ends cancelled.

    Raises:
        NoSuchJob, JobHasEnded, InQuarantine, NotInQuarantine: it cannot be; nothing was changed, and nothing audited.
    """
    query = {
        "requeue": "SELECT job_requeue($1, $2, $3)",
        "quarantine": "SELECT job_quarantine($1, $2, $3)",
        "release": "SELECT job_release($1, $2, $3)",
    }[action]
    try:
        standing: dict[str, Any] = await database.fetch_value(query, job_id, by.actor, by.reason)
    except asyncpg.PostgresError as error:
        raise _refused(error, encode(PREFIX, job_id)) from None
    return standing


async def command_pool(
    database: Database,
    pool: str,
    action: Literal["pause", "resume", "drain"],
    by: Operator,
    *,
    grace_seconds: float = 0,
) -> dict[str, Any]:
    """Pause, drain or resume a pool; returns how it stands then. Of these the last one counts.

    `pause`: nothing more is claimed. `drain`: besides, what still runs after the grace is handed back, by the elected
    dispatcher's sweep or by `drained`, whoever comes first.

    Raises:
        NoSuchPool: there is none of that name.
    """
    try:
        standing: dict[str, Any] = await database.fetch_value(
            "SELECT pool_command($1, $2, $3, $4, $5)",
            pool,
            action,
            timedelta(seconds=grace_seconds),
            by.actor,
            by.reason,
        )
    except asyncpg.PostgresError as error:
        raise _refused(error, pool) from None
    return standing


async def drained(database: Database, pool: str, grace_seconds: float) -> int:
    """Wait until nothing of a drained pool runs, and hand back what does after the grace.

    Returns how many jobs run all the same five seconds after it: none, unless somebody resumed the pool.
    """
    end = time.monotonic() + grace_seconds + 5
    while True:
        left: int = await database.fetch_value("SELECT count(*) FROM queue WHERE pool = $1 AND state = 'leased'", pool)
        if left == 0 or time.monotonic() > end:
            return left
        if not await Leases(database).end_drains():
            await asyncio.sleep(_LOOK_SECONDS)


async def audit(database: Database, *, target: str | None = None, limit: int = 100) -> list[Audited]:
    """The newest rows of the audit first, of one job (its public id) or pool, or of all."""
    job_id = None if target is None else decode(PREFIX, target)
    rows = await database.fetch(
        "SELECT id, at, actor, action, target, reason, before, after FROM audit WHERE $1::text IS NULL OR target = $1"
        " ORDER BY id DESC LIMIT $2",
        target if job_id is None else str(job_id),
        limit,
    )
    return [Audited(**{**row, "target": _shown(row)}) for row in rows]


def _shown(row: Mapping[str, Any]) -> str:
    target: str = row["target"]
    return encode(PREFIX, UUID(target)) if row["action"].startswith("job.") else target
