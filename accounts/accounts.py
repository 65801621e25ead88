"""Accounts: whom keys and wallets belong to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from core.database import Connection, Database
from core.ids import uuid7


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
