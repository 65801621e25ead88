"""Accounts: whom keys and wallets belong to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from core.database import Connection, Database
from core.ids import encode, uuid7

CONCURRENCY_MOST = 100_000
QUEUE_LIMIT_MOST = 1_000_000_000


@dataclass(frozen=True)
class Account:
    """One customer. `concurrency` jobs of it run at a time in each pool, `queue_limit` wait at most."""

    id: UUID
    name: str
    concurrency: int
    queue_limit: int
    created_at: datetime


async def create(connection: Connection, name: str) -> Account:
    """A new account with an empty wallet.

    Raises:
        ValueError: the name is empty or longer than 200 characters.
    """
    if not 1 <= len(name.strip()) <= 200:
        raise ValueError("an account's name has 1 to 200 characters")
    row = await connection.fetchrow(
        """WITH created AS (INSERT INTO account (id, name) VALUES ($1, $2) RETURNING *),
           wallet AS (INSERT INTO wallet (account_id) SELECT id FROM created)
           SELECT id, name, concurrency, queue_limit, created_at FROM created""",
        uuid7(),
        name.strip(),
    )
    return Account(**row)


async def find(database: Database, account_id: UUID) -> Account | None:
    """The account, or None."""
    row = await database.fetch_row(
        "SELECT id, name, concurrency, queue_limit, created_at FROM account WHERE id = $1", account_id
    )
    return None if row is None else Account(**row)


async def set_limits(
    connection: Connection,
    account_id: UUID,
    *,
    actor: str,
    reason: str | None = None,
    concurrency: int | None = None,
    queue_limit: int | None = None,
) -> Account | None:
    """Give the account other limits (None: as it was), with a row of the audit; the account, or None when there is none.

    A lower concurrency ends no job that runs, and a lower queue limit none that waits: less is let in from now on. After a
    higher one the dispatcher lets waiting jobs through within seconds.

    Raises:
        ValueError: a limit is below 1 or too large.
    """
    for name, limit, most in (
        ("concurrency", concurrency, CONCURRENCY_MOST),
        ("queue limit", queue_limit, QUEUE_LIMIT_MOST),
    ):
        if limit is not None and not 1 <= limit <= most:
            raise ValueError(f"an account's {name} is 1 to {most}, not {limit}")
    before = await connection.fetchrow(
        "SELECT concurrency, queue_limit FROM account WHERE id = $1 FOR NO KEY UPDATE", account_id
    )
    if before is None:
        return None
    row = await connection.fetchrow(
        "UPDATE account SET concurrency = coalesce($2, concurrency), queue_limit = coalesce($3, queue_limit) WHERE id = $1"
        " RETURNING id, name, concurrency, queue_limit, created_at",
        account_id,
        concurrency,
        queue_limit,
    )
    made = Account(**row)
    await connection.execute(
        "INSERT INTO audit (actor, action, target, reason, before, after) VALUES ($1, 'account.limits', $2, $3, $4, $5)",
        actor,
        encode("acct", account_id),
        reason,
        _limits(before["concurrency"], before["queue_limit"]),
        _limits(made.concurrency, made.queue_limit),
    )
    return made


def _limits(concurrency: int, queue_limit: int) -> dict[str, int]:
    return {"concurrency": concurrency, "queueLimit": queue_limit}
