"""The ledger checked in the background: which wallets disagree with their entries, and what was found last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from core.database import Database

Scope = Literal["touched", "all", "holds", "chains", "jobs"]

CHAIN_STEP = 10_000
"""Movements whose hashes one call of `check_chains` follows at most."""

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

_ROUND = """INSERT INTO ledger_check (scope, at, checked, wrong) VALUES ('chains', clock_timestamp(), 0, '{}')
ON CONFLICT (scope) DO UPDATE SET at = excluded.at RETURNING account_id, movement_id, checked, wrong"""

_FOLLOW = """SELECT account_id, broken, reached, seen
FROM (SELECT account_id FROM wallet WHERE account_id > $1 OR account_id = $1 AND $2 ORDER BY account_id LIMIT 1) AS next,
  LATERAL chain_follow(account_id, CASE WHEN account_id = $1 THEN $3::bigint ELSE 0 END, $4)"""


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


async def check_chains(database: Database, *, most: int = CHAIN_STEP) -> Check | None:
    """Follow the hash chains further, account by account, by at most `most` movements; None while the round goes on.

    Where it is, and what it found, is kept: a round that was cut off goes on. An account that was found broken stays
    `wrong` until a round finds it whole.
    """
    async with database.transaction() as connection:
        row = await connection.fetchrow(_ROUND)
        account, after, checked, wrong = row["account_id"], row["movement_id"], row["checked"], set(row["wrong"])
        if account is None:
            account, checked = UUID(int=0), 0
        left, ended = most, False
        while left > 0 and not ended:
            found = await connection.fetchrow(_FOLLOW, account, after > 0, after, left)
            if found is None:
                account, after, ended = None, 0, True
                continue
            account, after = found["account_id"], found["reached"] or 0
            left -= max(1, found["seen"])
            if not after:
                checked += 1
                (wrong.discard if found["broken"] is None else wrong.add)(account)
        at = await connection.fetchval(
            "UPDATE ledger_check SET account_id = $1, movement_id = $2, checked = $3, wrong = $4, at = clock_timestamp()"
            " WHERE scope = 'chains' RETURNING at",
            account,
            after,
            checked,
            sorted(wrong),
        )
    return Check("chains", at, checked, sorted(wrong)) if ended else None


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
