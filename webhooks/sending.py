"""One try of one delivery: claim it, write the notice as it is true now, sign it, post it, write down what came of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from core import egress
from core.addresses import Allowed
from core.clock import now, rfc3339
from core.database import Database
from core.ids import encode
from core.metrics import WEBHOOK_ATTEMPTS
from jobs.models import Job
from jobs.store import Jobs
from webhooks.schedule import Schedule
from webhooks.secrets import signed_headers
from webhooks.store import Webhooks

UNANSWERED = "No answer is known: the try is under way, or its sender was stopped."
BROKEN = "The notice could not be made; the fault is ours."

SHARE = 8
"""Tries that one account has under way in one process."""

Render = Callable[[Job], str]
"""A job as its caller reads it, in JSON, with fresh URLs; called in a thread."""


class TryAgain(Exception):
    """The delivery is to be tried at `at`; the more tries it had, the more it stands back behind others."""

    def __init__(self, at: datetime, tries: int) -> None:
        super().__init__(f"to be tried again at {rfc3339(at)}")
        self.at = at
        self.tries = tries


@dataclass(frozen=True)
class _Try:
    delivery_id: UUID
    job_id: UUID
    account_id: UUID
    type: str
    url: str
    number: int


@dataclass(frozen=True)
class _Came:
    """What came of a try: a status, or an error in words."""

    seconds: float
    status: int | None = None
    error: str | None = None

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def final(self) -> bool:
        """Whether the receiver wants to hear no more (410 Gone), or has heard."""
        return self.delivered or self.status == 410


class Sender:
    """Tries deliveries. A delivery is carried by one task at a time; what another task still knows of it is void.

    An account has at most `SHARE` tries under way, so that receivers that never answer hold up nobody else's notices.
    """

    def __init__(
        self,
        database: Database,
        webhooks: Webhooks,
        render: Render,
        *,
        schedule: Schedule,
        allow: Sequence[Allowed] = (),
        resolver: egress.Resolver = egress.resolve,
    ) -> None:
        self._database = database
        self._webhooks = webhooks
        self._jobs = Jobs(database)
        self._render = render
        self._schedule = schedule
        self._allow = allow
        self._resolver = resolver
        self._under_way: Counter[UUID] = Counter()

    async def attempt(self, delivery_id: UUID, carrier: int) -> None:
        """Make one try, unless the delivery has ended or another task carries it.

        Raises:
            TryAgain: the try failed, or it came too early, or the account's share is under way; another one is due.
            Exception: the notice could not be made; another try is due all the same.
        """
        account_id = await self._database.fetch_value(
            "SELECT account_id FROM delivery WHERE id = $1 AND carrier = $2 AND state = 'pending'", delivery_id, carrier
        )
        if account_id is None:
            return
        if self._under_way[account_id] >= SHARE:
            await self._stand_back(delivery_id, carrier)
            return
        self._under_way[account_id] += 1
        try:
            await self._attempt(delivery_id, carrier)
        finally:
            self._under_way[account_id] -= 1
            if not self._under_way[account_id]:
                del self._under_way[account_id]

    async def _attempt(self, delivery_id: UUID, carrier: int) -> None:
        claimed = await self._claim(delivery_id, carrier)
        if claimed is None:
            return
        try:
            came = await self._post(claimed)
        except asyncio.CancelledError:
            await self._let_go(claimed)
            raise
        except Exception:
            await self._record(claimed, _Came(0, error=BROKEN))
            raise
        again = await self._record(claimed, came)
        if again is not None:
            raise TryAgain(again, claimed.number)

    async def _stand_back(self, delivery_id: UUID, carrier: int) -> None:
        """Put off a try that has not begun; it does not count. It comes back behind everybody else's."""
        again = await self._database.fetch_value(
            "UPDATE delivery SET next_attempt_at = greatest(next_attempt_at, clock_timestamp() + make_interval(secs => $3))"
            " WHERE id = $1 AND carrier = $2 AND state = 'pending' RETURNING next_attempt_at",
            delivery_id,
            carrier,
            self._schedule.share_pause * random.uniform(1, 2),  # noqa: S311 (spreads load, hides nothing)
        )
        if again is not None:
            raise TryAgain(again, self._schedule.tries)

    async def _claim(self, delivery_id: UUID, carrier: int) -> _Try | None:
        """The next try, written down before it is made, so that one which ends its process counts too."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "SELECT job_id, account_id, type, url, next_attempt_at, next_attempt_at > clock_timestamp() AS early"
                " FROM delivery WHERE id = $1 AND carrier = $2 AND state = 'pending' FOR UPDATE",
                delivery_id,
                carrier,
            )
            if row is None:
                return None
            tries = await connection.fetchval(
                "SELECT coalesce(max(number), 0) FROM delivery_attempt WHERE delivery_id = $1", delivery_id
            )
            if row["early"]:
                raise TryAgain(row["next_attempt_at"], tries)
            if tries >= self._schedule.tries:
                await self._end(connection, delivery_id, "failed")
                return None
            await connection.execute(
                "INSERT INTO delivery_attempt (delivery_id, number, started_at, seconds, error)"
                " VALUES ($1, $2, clock_timestamp(), 0, $3)",
                delivery_id,
                tries + 1,
                UNANSWERED,
            )
            await connection.execute(
                "UPDATE delivery SET next_attempt_at = clock_timestamp() + make_interval(secs => $2) WHERE id = $1",
                delivery_id,
                self._schedule.lease,
            )
        return _Try(delivery_id, row["job_id"], row["account_id"], row["type"], row["url"], tries + 1)

    async def _post(self, claimed: _Try) -> _Came:
        body, headers = await self._notice(claimed)
        began = time.monotonic()
        try:
            posted = await egress.post(
                claimed.url,
                body.encode(),
                headers,
                timeout_s=self._schedule.timeout,
                allow=self._allow,
                resolver=self._resolver,
            )
        except egress.FetchFailed as error:
            return _Came(time.monotonic() - began, error=error.reason)
        return _Came(posted.seconds, status=posted.status)

    async def _notice(self, claimed: _Try) -> tuple[str, dict[str, str]]:
        job = await self._jobs.get(claimed.account_id, claimed.job_id)
        assert job.finished_at is not None
        data = await asyncio.to_thread(self._render, job)
        body = f'{{"type":"{claimed.type}","timestamp":"{rfc3339(job.finished_at)}","data":{data}}}'
        secret = await self._webhooks.secret(claimed.account_id)
        return body, signed_headers(secret.in_force, encode("msg", claimed.delivery_id), now(), body)

    async def _record(self, claimed: _Try, came: _Came) -> datetime | None:
        """Write down what came of the try; the instant of the next one, if there is to be one."""
        pause = None if came.final else self._schedule.pause(claimed.number)
        WEBHOOK_ATTEMPTS.labels(
            "delivered" if came.delivered else "unanswered" if came.status is None else "refused"
        ).inc()
        async with self._database.transaction() as connection:
            await connection.execute(
                "UPDATE delivery_attempt SET seconds = $3, status = $4, error = $5 WHERE delivery_id = $1 AND number = $2",
                claimed.delivery_id,
                claimed.number,
                came.seconds,
                came.status,
                came.error,
            )
            if pause is None:
                await self._end(connection, claimed.delivery_id, "delivered" if came.delivered else "failed")
                return None
            again: datetime | None = await connection.fetchval(
                "UPDATE delivery SET next_attempt_at = clock_timestamp() + make_interval(secs => $2)"
                " WHERE id = $1 AND state = 'pending' RETURNING next_attempt_at",
                claimed.delivery_id,
                pause,
            )
            return again

    async def _end(self, connection: Any, delivery_id: UUID, state: str) -> None:
        """A delivery that was ever received stays delivered, whatever a slower try says."""
        await connection.execute(
            "UPDATE delivery SET state = $2, ended_at = clock_timestamp(), next_attempt_at = NULL"
            " WHERE id = $1 AND state <> 'delivered'",
            delivery_id,
            state,
        )

    async def _let_go(self, claimed: _Try) -> None:
        """Undo a claim whose try was broken off by this process's end: it does not count, and the next may begin at once."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "DELETE FROM delivery_attempt WHERE delivery_id = $1 AND number = $2 AND error = $3",
                claimed.delivery_id,
                claimed.number,
                UNANSWERED,
            )
            await connection.execute(
                "UPDATE delivery SET next_attempt_at = clock_timestamp() WHERE id = $1 AND state = 'pending'",
                claimed.delivery_id,
            )
