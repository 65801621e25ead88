"""What an account uses of what it may, at this moment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from core.database import Database

_READ = """
SELECT concurrency, queue_limit, CASE WHEN paused_until > clock_timestamp() THEN paused_until END AS paused_until,
  (SELECT coalesce(sum(active + parked), 0)::int FROM flow WHERE account_id = account.id) AS unfinished_jobs,
  (SELECT count(*)::int FROM job WHERE account_id = account.id AND state = 'running') AS running_jobs,
  (SELECT count(*)::int FROM job WHERE account_id = account.id
     AND running_cancel_at > statement_timestamp() - interval '1 day') AS running_cancels
FROM account WHERE id = $1
"""


@dataclass(frozen=True)
class Usage:
    """`unfinished_jobs` count against `queue_limit`, `running_cancels` are those of the last day."""

    concurrency: int
    queue_limit: int
    paused_until: datetime | None
    unfinished_jobs: int
    running_jobs: int
    running_cancels: int


async def usage(database: Database, account_id: UUID) -> Usage:
    """The account's limits and what it uses of them."""
    row = await database.fetch_row(_READ, account_id)
    assert row is not None
    return Usage(**row)
