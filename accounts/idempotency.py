"""Idempotency of writes: the first 2xx is kept for 24 hours under account, route and key.

A job's submit does the same inside its own SQL function; both share the table and `idempotency_begin`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from core.database import Connection, Database
from core.errors import IdempotencyConflict, IdempotencyInProgress


@dataclass(frozen=True)
class Replay:
    """The answer that was given the first time."""

    status: int
    body: dict[str, Any]


async def begin(connection: Connection, account_id: UUID, route: str, key: str, fingerprint: bytes) -> Replay | None:
    """Claim the key inside the caller's transaction; the first answer when it was given already.

    `fingerprint` is the SHA-256 of the canonical body.

    Raises:
        IdempotencyConflict: the key was used for another body.
        IdempotencyInProgress: a twin held the key for ten seconds.
    """
    try:
        row = await connection.fetchrow(
            "SELECT status, body FROM idempotency_begin($1, $2, $3, $4) WHERE key IS NOT NULL",
            account_id,
            route,
            key,
            fingerprint,
        )
    except asyncpg.PostgresError as error:
        raise translated(error) from None
    return None if row is None else Replay(row["status"], row["body"])


async def earlier(database: Database, account_id: UUID, route: str, key: str, fingerprint: bytes) -> Replay | None:
    """The first answer under the key, when there is one by now; claims nothing and waits for nobody.

    Raises:
        IdempotencyConflict: the key was used for another body.
    """
    row = await database.fetch_row(
        "SELECT status, body, fingerprint FROM idempotency WHERE account_id = $1 AND route = $2 AND key = $3"
        " AND created_at >= clock_timestamp() - idempotency_window()",
        account_id,
        route,
        key,
    )
    if row is None:
        return None
    if row["fingerprint"] != fingerprint:
        raise IdempotencyConflict
    return Replay(row["status"], row["body"])


async def record(
    connection: Connection, account_id: UUID, route: str, key: str, status: int, body: dict[str, Any]
) -> None:
    """Keep the answer, in the transaction that did the work. `body` holds no secret."""
    await connection.execute(
        "UPDATE idempotency SET status = $4, body = $5 WHERE account_id = $1 AND route = $2 AND key = $3",
        account_id,
        route,
        key,
        status,
        body,
    )


async def remove_expired(database: Database, batch: int = 1000) -> int:
    """Remove records whose window is over, `batch` at a time; returns how many."""
    removed = 0
    while True:
        count: int = await database.fetch_value(
            """WITH gone AS (DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM idempotency WHERE created_at < statement_timestamp() - idempotency_window()
                 LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING 1)
               SELECT count(*) FROM gone""",
            batch,
        )
        removed += count
        if count < batch:
            return removed


def translated(error: Exception) -> Exception:
    """The API error behind an error of `idempotency_begin`, or the error itself."""
    match getattr(error, "sqlstate", None):
        case "KT409":
            return IdempotencyConflict()
        case "55P03":
            return IdempotencyInProgress()
        case _:
            return error
