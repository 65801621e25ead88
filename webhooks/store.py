"""The callers' side of webhooks: the account's secret, the log of deliveries, and a notice sent again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from core.clock import now
from core.database import Connection, Database
from core.errors import NotFound, WrongState
from core.ids import uuid7
from webhooks.secrets import Secret, SecretMaker

MOST_LISTED = 100

_GENERATION = """INSERT INTO webhook_secret (account_id) VALUES ($1)
ON CONFLICT (account_id) DO UPDATE SET generation = webhook_secret.generation + $2,
  rotated_at = CASE WHEN $2 = 0 THEN webhook_secret.rotated_at ELSE clock_timestamp() END
RETURNING generation, rotated_at"""


@dataclass(frozen=True)
class DeliveryAttempt:
    """One try: the receiver's status, or in `error` why there is none."""

    number: int
    started_at: datetime
    seconds: float
    status: int | None
    error: str | None


@dataclass(frozen=True)
class Delivery:
    """One notice on its way: what it says, where it goes, and every try, the first one first."""

    id: UUID
    job_id: UUID
    type: str
    url: str
    state: Literal["pending", "delivered", "failed"]
    created_at: datetime
    next_attempt_at: datetime | None
    ended_at: datetime | None
    attempts: list[DeliveryAttempt] = field(default_factory=list)


class Webhooks:
    """The webhooks of all accounts, in PostgreSQL. `key` is the service's own secret, from which theirs are derived."""

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        self._maker = SecretMaker(key)

    async def secret(self, account_id: UUID) -> Secret:
        """The account's secret, made when there is none yet."""
        row = await self._database.fetch_row(
            "SELECT generation, rotated_at FROM webhook_secret WHERE account_id = $1", account_id
        )
        if row is None:
            row = await self._database.fetch_row(_GENERATION, account_id, 0)
        assert row is not None
        return self._maker.secret(account_id, row["generation"], row["rotated_at"], now())

    async def rotate(self, connection: Connection, account_id: UUID) -> Secret:
        """A new secret for the account; the one before it signs beside it for 24 hours, an older one no more."""
        row = await connection.fetchrow(_GENERATION, account_id, 1)
        return self._maker.secret(account_id, row["generation"], row["rotated_at"], now())

    async def deliveries(self, account_id: UUID, job_id: UUID) -> list[Delivery]:
        """Up to `MOST_LISTED` deliveries of the account's job, newest first, with their tries.

        Raises:
            NotFound: there is no such job, or it belongs to another account.
        """
        if not await self._database.fetch_value(
            "SELECT EXISTS (SELECT FROM job WHERE id = $1 AND account_id = $2)", job_id, account_id
        ):
            raise NotFound("There is no such job; send the jobId of a submit.")
        rows = await self._database.fetch(
            "SELECT id, job_id, type, url, state, created_at, next_attempt_at, ended_at FROM delivery"
            " WHERE job_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2",
            job_id,
            MOST_LISTED,
        )
        tried = await self._database.fetch(
            "SELECT delivery_id, number, started_at, seconds, status, error FROM delivery_attempt"
            " WHERE delivery_id = ANY ($1) ORDER BY delivery_id, number",
            [row["id"] for row in rows],
        )
        attempts: dict[UUID, list[DeliveryAttempt]] = defaultdict(list)
        for row in tried:
            values = dict(row)
            attempts[values.pop("delivery_id")].append(DeliveryAttempt(**values))
        return [Delivery(**row, attempts=attempts[row["id"]]) for row in rows]

    async def redeliver(self, connection: Connection, account_id: UUID, job_id: UUID) -> Delivery:
        """A new delivery of the notice of the job's end, to the same URL, beside those that were; one at a time.

        Raises:
            NotFound: there is no such job, it belongs to another account, or it has no webhook.
            WrongState: the job has not ended, so there is nothing to tell, or a delivery of it is still pending.
        """
        job = await connection.fetchrow(
            "SELECT state, webhook_url, finished_at FROM job WHERE id = $1 AND account_id = $2 FOR NO KEY UPDATE",
            job_id,
            account_id,
        )
        if job is None:
            raise NotFound("There is no such job; send the jobId of a submit.")
        if job["webhook_url"] is None:
            raise NotFound("This job has no webhook; give webhookUrl when you submit one.")
        if job["finished_at"] is None:
            raise WrongState("This job has not ended, so there is nothing to deliver again; its end will be delivered.")
        # Asked by a statement of its own, which sees what the lock had to wait for.
        if await connection.fetchval(
            "SELECT EXISTS (SELECT FROM delivery WHERE job_id = $1 AND state = 'pending')", job_id
        ):
            raise WrongState(
                "A delivery of this job's end is still pending; GET /media/webhooks/deliveries says when it is tried next."
            )
        row = await connection.fetchrow(
            "INSERT INTO delivery (id, job_id, account_id, type, url) VALUES ($1, $2, $3, $4, $5)"
            " RETURNING id, job_id, type, url, state, created_at, next_attempt_at, ended_at",
            uuid7(),
            job_id,
            account_id,
            f"job.{job['state']}",
            job["webhook_url"],
        )
        return Delivery(**row)

    async def remove_old(self, days: int, batch: int = 1000) -> int:
        """Remove deliveries that ended more than `days` ago, `batch` at a time; returns how many."""
        removed = 0
        while True:
            count: int = await self._database.fetch_value(
                """WITH old AS (
                     SELECT id FROM delivery WHERE ended_at < statement_timestamp() - make_interval(days => $1)
                     ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
                   ), tries AS (DELETE FROM delivery_attempt USING old WHERE delivery_id = old.id),
                   gone AS (DELETE FROM delivery USING old WHERE delivery.id = old.id RETURNING 1)
                   SELECT count(*) FROM gone""",
                days,
                batch,
            )
            removed += count
            if count < batch:
                return removed
