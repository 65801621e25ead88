"""What the database says after a storm: everything that the judge weighs, as it stood at one moment."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from billing import wallets
from core.database import Connection, Database
from jobs import history

Row = Any


@dataclass(frozen=True)
class Books:
    """Rows by job, and what checks of whole accounts found."""

    jobs: dict[UUID, Row]
    attempts: dict[UUID, list[Row]]
    events: dict[UUID, list[Row]]
    movements: dict[UUID, list[Row]]
    deliveries: dict[UUID, list[Row]]
    keys: dict[tuple[UUID, str], list[UUID]]
    quarantined: dict[UUID, str]
    drift: int
    broken_chains: int
    orphaned_holds: int
    wallets_off: int
    in_queue: int


class _OneView(Database):
    """The database as one transaction sees it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, query: str, *values: Any) -> list[Row]:
        rows: list[Row] = await self._connection.fetch(query, *values)
        return rows

    async def fetch_row(self, query: str, *values: Any) -> Row:
        return await self._connection.fetchrow(query, *values)

    async def fetch_value(self, query: str, *values: Any) -> Any:
        return await self._connection.fetchval(query, *values)


async def read(database: Database) -> Books:
    """All of it, whatever goes on meanwhile."""
    async with database.transaction() as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return await _read(_OneView(connection))


async def _read(database: Database) -> Books:
    jobs = await database.fetch("SELECT job.*, hold.state AS hold FROM job LEFT JOIN hold ON hold.id = job.id")
    keys: dict[tuple[UUID, str], list[UUID]] = defaultdict(list)
    for row in await database.fetch("SELECT account_id, key, job_id FROM idempotency WHERE job_id IS NOT NULL"):
        keys[row["account_id"], row["key"]].append(row["job_id"])
    _, orphans = await history.orphaned_holds(database)
    return Books(
        jobs={row["id"]: row for row in jobs},
        attempts=await _by_job(
            database,
            "SELECT attempt.*, session.name AS session FROM attempt JOIN session ON session.id = session_id ORDER BY fence",
        ),
        events=await _by_job(database, "SELECT job_id, seq, at, type, data FROM event ORDER BY job_id, seq"),
        movements=await _by_job(
            database,
            "SELECT hold_id AS job_id, kind, sum(abs(amount))::bigint / 2 AS amount FROM movement"
            " JOIN entry ON entry.movement_id = movement.id WHERE hold_id IS NOT NULL GROUP BY movement.id",
        ),
        deliveries=await _by_job(database, "SELECT job_id, type, state FROM delivery"),
        keys=keys,
        quarantined={
            row["job_id"]: row["reason"] for row in await database.fetch("SELECT job_id, reason FROM quarantine")
        },
        drift=len(await wallets.drift(database)),
        broken_chains=len(await wallets.broken_chains(database)),
        orphaned_holds=len(orphans),
        wallets_off=await database.fetch_value(_WALLETS_OFF),
        in_queue=await database.fetch_value("SELECT count(*) FROM queue"),
    )


_WALLETS_OFF = """
SELECT count(*) FROM wallet JOIN LATERAL (
    SELECT coalesce(sum(CASE WHEN state = 'succeeded' THEN amount END), 0) AS spent,
      coalesce(sum(CASE WHEN finished_at IS NULL THEN amount END), 0) AS held FROM job WHERE account_id = wallet.account_id
  ) AS asked ON true JOIN LATERAL (
    SELECT coalesce(sum(amount), 0) AS paid FROM entry JOIN movement ON movement.id = movement_id AND kind = 'topup'
      WHERE entry.account_id = wallet.account_id AND book = 'available'
  ) AS given ON true
WHERE wallet.held <> asked.held OR wallet.available <> given.paid - asked.spent - asked.held OR wallet.debt <> 0"""
"""Wallets that differ from what their jobs cost: told from the jobs alone, not from the ledger."""


async def _by_job(database: Database, query: str) -> dict[UUID, list[Row]]:
    found: dict[UUID, list[Row]] = defaultdict(list)
    for row in await database.fetch(query):
        found[row["job_id"]].append(row)
    return found


def seconds(earlier: datetime, later: datetime) -> float:
    """Between two instants."""
    return (later - earlier).total_seconds()
