"""What callers read of the ledger: the movements behind a hold, and an account's entries page by page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from billing.chain import GENESIS, Entry, Movement
from core.database import Database

_MOVEMENTS = """
SELECT id, kind, business_id, created_at, request_id, hash,
  (SELECT hash FROM movement AS before WHERE before.account_id = movement.account_id AND before.id < movement.id
   ORDER BY before.id DESC LIMIT 1) AS previous_hash,
  (SELECT jsonb_agg(jsonb_build_array(book, amount, balance_after) ORDER BY seq) FROM entry WHERE movement_id = movement.id)
    AS entries
FROM movement WHERE hold_id = $1 AND account_id = $2 ORDER BY id
"""
_PAGE = """
SELECT movement_id, seq, book, amount, balance_after, kind, business_id, hold_id, movement.request_id, created_at, hash
FROM entry JOIN movement ON movement.id = movement_id
WHERE entry.account_id = $1 AND movement.account_id = $1 AND (movement_id, seq) < ($2, $3)
  AND created_at >= $4 AND created_at < $5 ORDER BY movement_id DESC, seq DESC LIMIT $6
"""
_NEWEST = (2**63 - 1, 2**15 - 1)


@dataclass(frozen=True)
class Line:
    """One entry of an account's own books with the movement it belongs to, in micro-dollars."""

    movement_id: int
    seq: int
    book: str
    amount: int
    balance_after: int
    kind: str
    business_id: str
    hold_id: UUID | None
    request_id: str | None
    created_at: datetime
    hash: bytes


async def movements_of(database: Database, account_id: UUID, hold_id: UUID) -> list[Movement]:
    """The movements of a hold of the account, oldest first, each with the hash it follows; [] without such a hold."""
    return [_movement(row) for row in await database.fetch(_MOVEMENTS, hold_id, account_id)]


async def page(
    database: Database,
    account_id: UUID,
    *,
    limit: int,
    before: tuple[int, int] | None,
    since: datetime,
    until: datetime,
) -> list[Line]:
    """Up to `limit` entries of the account made in [`since`, `until`), newest first, older than the entry `before`."""
    rows = await database.fetch(_PAGE, account_id, *(before or _NEWEST), since, until, limit)
    return [Line(**row) for row in rows]


def _movement(row: Mapping[str, Any]) -> Movement:
    return Movement(
        id=row["id"],
        kind=row["kind"],
        business_id=row["business_id"],
        created_at=row["created_at"],
        request_id=row["request_id"],
        entries=tuple(Entry(*entry) for entry in row["entries"]),
        previous_hash=row["previous_hash"] or GENESIS,
        hash=row["hash"],
    )
