"""The ledger checked in the background: which wallets disagree with their entries, and what was found last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from core.database import Database

Scope = Literal["touched", "all", "holds"]

# OFFSET 0 keeps each wallet's check a query of its own, which reads that account's entries by index and no other's.
_TOUCHED = """WITH last AS (
  SELECT coalesce(max(at), '-infinity') AS at FROM ledger_check WHERE scope IN ('touched', 'all')
), touched AS (
  SELECT account_id FROM movement, last WHERE created_at > last.at - interval '1 minute' AND account_id IS NOT NULL
  UNION SELECT unnest(wrong) FROM ledger_check WHERE scope IN ('touched', 'all')
)
SELECT (SELECT count(*) FROM touched) AS checked, clock_timestamp() AS at,
  coalesce((SELECT array_agg(found.account_id) FROM touched CROSS JOIN LATERAL
    (SELECT account_id FROM drift WHERE account_id = touched.account_id OFFSET 0) found), '{}') AS wrong"""

_ALL = """SELECT (SELECT count(*) FROM wallet) AS checked, clock_timestamp() AS at,
  coalesce((SELECT array_agg(account_id) FROM drift), '{}') AS wrong"""


@dataclass(frozen=True)
class Check:
    """The last result of a check: how many wallets (or holds) it saw, and the accounts at fault."""

    scope: Scope
    at: datetime
    checked: int
    wrong: Sequence[UUID]


async def check_touched(database: Database) -> Check:
    """Check the wallets that moved since the last check, and those that were wrong then; the result is kept."""
    return await _kept(database, "touched", _TOUCHED)


async def check_all(database: Database) -> Check:
    """Check every wallet against all its entries; the result is kept."""
    return await _kept(database, "all", _ALL)


async def keep(database: Database, scope: Scope, checked: int, wrong: Sequence[UUID]) -> None:
    """Keep a check's result in the place of the one before."""
    await database.execute(
        "INSERT INTO ledger_check (scope, at, checked, wrong) VALUES ($1, clock_timestamp(), $2, $3)"
        " ON CONFLICT (scope) DO UPDATE SET at = excluded.at, checked = excluded.checked, wrong = excluded.wrong",
        scope,
        checked,
        wrong,
    )


async def last(database: Database) -> list[Check]:
    """The last result of each check that ever ran, for metrics."""
    return [Check(**row) for row in await database.fetch("SELECT scope, at, checked, wrong FROM ledger_check")]


async def _kept(database: Database, scope: Scope, query: str) -> Check:
    row = await database.fetch_row(query)
    assert row is not None
    await keep(database, scope, row["checked"], row["wrong"])
    return Check(scope, row["at"], row["checked"], row["wrong"])
