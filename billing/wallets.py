"""Wallets: what an account can spend, what is set aside, and what it owes, in micro-dollars."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from core.database import Connection, Database


class BusinessIdReused(ValueError):
    """The business id names another movement: another kind, account or amount."""


@dataclass(frozen=True)
class Balance:
    """One wallet, in micro-dollars."""

    available: int
    held: int
    debt: int

    @property
    def balance(self) -> int:
        """What the account owns: available + held − debt."""
        return self.available + self.held - self.debt


@dataclass(frozen=True)
class Drift:
    """A wallet that differs from its entries or from its open holds, in micro-dollars."""

    account_id: UUID
    available: int
    held: int
    debt: int
    entries_available: int
    entries_held: int
    entries_debt: int
    open_holds: int


async def balance(database: Database, account_id: UUID) -> Balance:
    """The account's wallet.

    Raises:
        LookupError: there is no such account.
    """
    row = await database.fetch_row("SELECT available, held, debt FROM wallet WHERE account_id = $1", account_id)
    if row is None:
        raise LookupError(f"no wallet for account {account_id}")
    return Balance(**row)


async def topup(
    connection: Connection, account_id: UUID, amount: int, business_id: str, request_id: str | None = None
) -> bool:
    """Credit `amount` micro-dollars once per `business_id`, repaying a debt first; False for a replay.

    Raises:
        ValueError: the amount is not positive.
        LookupError: there is no such account.
        BusinessIdReused: the id names another movement.
    """
    return await _move(connection, "topup", account_id, amount, business_id, request_id)


async def chargeback(
    connection: Connection, account_id: UUID, amount: int, business_id: str, request_id: str | None = None
) -> bool:
    """Take `amount` micro-dollars back once per `business_id`; what is not available becomes debt. False for a replay.

    Raises:
        ValueError: the amount is not positive.
        LookupError: there is no such account.
        BusinessIdReused: the id names another movement.
    """
    return await _move(connection, "chargeback", account_id, amount, business_id, request_id)


async def _move(
    connection: Connection, function: str, account_id: UUID, amount: int, business_id: str, request_id: str | None
) -> bool:
    if amount <= 0:
        raise ValueError("an amount to move is a positive number of micro-dollars")
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM wallet WHERE account_id = $1)", account_id):
        raise LookupError(f"no wallet for account {account_id}")
    try:
        moved: bool = await connection.fetchval(
            f"SELECT {function}($1, $2, $3, $4)", account_id, amount, business_id, request_id
        )
    except asyncpg.PostgresError as error:
        if error.sqlstate == "KT903":
            raise BusinessIdReused(f"{business_id} names another movement; use the payment's own id") from None
        raise
    return moved


async def drift(database: Database) -> list[Drift]:
    """Every wallet that disagrees with the ledger: an empty list, unless something is broken."""
    return [Drift(**row) for row in await database.fetch("SELECT * FROM drift ORDER BY account_id")]


async def broken_chains(database: Database) -> dict[UUID, int]:
    """Accounts whose movements do not follow from each other, with the first that does not (0: the wallet itself).

    Reads every movement of every account: an empty dict, unless somebody rewrote the past.
    """
    rows = await database.fetch(
        "SELECT account_id, chain_break(account_id) AS movement FROM wallet WHERE chain_break(account_id) IS NOT NULL"
    )
    return {row["account_id"]: row["movement"] for row in rows}
