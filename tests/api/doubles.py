"""Stand-ins for PostgreSQL's side of the house, for tests of HTTP alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from accounts.idempotency import Replay
from accounts.keys import ApiKey, Caller
from core.errors import IdempotencyConflict, InsufficientBalance, NotFound, WrongState
from core.ids import uuid7
from core.money import usd
from jobs.models import Accepted, Job, Submission
from jobs.store import NEVER, Version
from pricing.book import PriceBook
from webhooks.secrets import Secret, SecretMaker
from webhooks.store import Delivery

KEY = "kt_aaaaaaaa_" + "s" * 32
OTHER_KEY = "kt_bbbbbbbb_" + "s" * 32
ACCOUNT, OTHER_ACCOUNT = uuid7(), uuid7()
THEN = datetime(2026, 11, 23, 10, 0, 0, 123000, UTC)


class DatabaseDouble:
    """A database that knows one wallet and an empty queue. `failure`, when set, is raised by every use."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.records: dict[tuple[Any, ...], tuple[bytes, int, dict[str, Any]]] = {}
        self.opened = self.closed = 0

    def _used(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def open(self) -> None:
        self._used()
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    async def fetch(self, query: str, *values: Any) -> list[Mapping[str, Any]]:
        self._used()
        return []

    async def fetch_value(self, query: str, *values: Any) -> Any:
        self._used()
        return 0

    async def fetch_row(self, query: str, *values: Any) -> Mapping[str, Any] | None:
        self._used()
        return {"available": 9_000_000, "held": 500_000, "debt": 0}

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[DatabaseDouble]:
        self._used()
        kept = dict(self.records)
        try:
            yield self
        except BaseException:
            self.records = kept
            raise


async def begin(
    connection: DatabaseDouble, account_id: UUID, route: str, key: str, fingerprint: bytes
) -> Replay | None:
    """`accounts.idempotency.begin` in memory."""
    found = connection.records.get((account_id, route, key))
    if found is None:
        return None
    if found[0] != fingerprint:
        raise IdempotencyConflict
    return Replay(found[1], found[2])


class RecordDouble:
    """`accounts.idempotency.record` in memory; the fingerprint is the last one that `begin` saw."""

    def __init__(self) -> None:
        self.fingerprint = b""

    async def begin(self, connection: DatabaseDouble, *scope: Any) -> Replay | None:
        self.fingerprint = scope[-1]
        return await begin(connection, *scope)

    async def record(
        self,
        connection: DatabaseDouble,
        account_id: UUID,
        route: str,
        key: str,
        status: int,
        body: dict[str, Any],
    ) -> None:
        connection.records[account_id, route, key] = (self.fingerprint, status, body)


class KeysDouble:
    """Two keys of two accounts, and what is made meanwhile."""

    def __init__(self, database: DatabaseDouble) -> None:
        self.database = database
        self.made: list[ApiKey] = []

    async def authenticate(self, key: str) -> Caller | None:
        self.database._used()
        account = {KEY: ACCOUNT, OTHER_KEY: OTHER_ACCOUNT}.get(key)
        return None if account is None else Caller(account, key[3:11])

    async def create(self, connection: Any, account_id: UUID, label: str) -> tuple[str, ApiKey]:
        key = ApiKey(f"made{len(self.made):04}", label, THEN, None, None)
        self.made.append(key)
        return f"kt_{key.prefix}_secret", key

    async def list(self, account_id: UUID) -> list[ApiKey]:
        return self.made

    async def revoke(self, connection: Any, account_id: UUID, prefix: str) -> ApiKey:
        for key in self.made:
            if key.prefix == prefix.removeprefix("kt_"):
                return replace(key, revoked_at=THEN)
        raise NotFound("No such key.")


class BooksDouble:
    """The built-in price book, and nothing older."""

    async def current(self) -> PriceBook:
        return PriceBook.built_in()

    async def version(self, version: str) -> PriceBook:
        assert version == PriceBook.built_in().version
        return PriceBook.built_in()


class JobsDouble:
    """Jobs in memory; `purse` is what may be held, in micro-dollars."""

    def __init__(self) -> None:
        self.purse = 10_000_000
        self.submissions: list[Submission] = []
        self.jobs: dict[UUID, Job] = {}
        self.keys: dict[tuple[UUID, str], tuple[bytes, UUID]] = {}

    async def submit(self, submission: Submission) -> Accepted:
        if submission.idempotency_key is not None:
            known = self.keys.get((submission.account_id, submission.idempotency_key))
            if known is not None:
                if known[0] != submission.fingerprint:
                    raise IdempotencyConflict
                return Accepted(self.jobs[known[1]], self.purse, replayed=True)
        needed = submission.quote.amount_micros
        if needed > self.purse:
            raise InsufficientBalance("Top up.", details={"neededUsd": usd(needed), "availableUsd": usd(self.purse)})
        self.purse -= needed
        self.submissions.append(submission)
        job = queued(submission)
        self.jobs[job.id] = job
        if submission.idempotency_key is not None:
            self.keys[submission.account_id, submission.idempotency_key] = (submission.fingerprint, job.id)
        return Accepted(job, self.purse, replayed=False)

    async def admit(self, submission: Submission, sizes: Sequence[int], *, most_bytes: int) -> None:
        assert len(sizes) == len(submission.inputs)

    async def replayed(self, account_id: UUID, idempotency_key: str, fingerprint: bytes) -> Accepted | None:
        known = self.keys.get((account_id, idempotency_key))
        if known is not None and known[0] != fingerprint:
            raise IdempotencyConflict
        return None if known is None else Accepted(self.jobs[known[1]], self.purse, replayed=True)

    async def get(self, account_id: UUID, job_id: UUID, *, details: bool = False) -> Job:
        job = self.jobs.get(job_id)
        if job is None or job.account_id != account_id:
            raise NotFound("No such job.")
        return job

    async def changed(self, account_id: UUID, job_id: UUID, since: Version = NEVER) -> tuple[Version, Job | None]:
        return (1, 1), await self.get(account_id, job_id)

    async def cancel(
        self, account_id: UUID, job_id: UUID, request_id: str | None = None, *, most_running: int | None = None
    ) -> Job:
        job = await self.get(account_id, job_id)
        if job.state == "queued":
            job = self.jobs[job_id] = replace(
                job,
                state="cancelled",
                hold_state="released",
                released_at=THEN,
                finished_at=THEN,
                cancel_requested_at=THEN,
            )
        return job


def queued(submission: Submission) -> Job:
    """The job of a submission, as it stands right after it."""
    return Job(
        id=uuid7(),
        account_id=submission.account_id,
        task=submission.task,
        state="queued",
        effective_input=submission.effective_input,
        input_adjustments=submission.input_adjustments,
        warnings=submission.warnings,
        billing=submission.quote.billing_json(),
        amount_micros=submission.quote.amount_micros,
        hold_state="held",
        captured_at=None,
        released_at=None,
        progress=0.0,
        stage=None,
        sequence=1,
        created_at=THEN,
        started_at=None,
        finished_at=None,
        cancel_requested_at=None,
        stopped_at_step=None,
        gpu_released_at=None,
        engine=None,
        weights_digest=None,
        stand_in=None,
        outputs=[],
        outputs_deleted_at=None,
        failure=None,
        upstream=None,
    )


class WebhooksDouble:
    """Secrets and deliveries in memory; the job's webhook is what its submission said."""

    def __init__(self, jobs: JobsDouble) -> None:
        self.jobs = jobs
        self.generations: dict[UUID, int] = {}
        self.made: list[Delivery] = []

    async def secret(self, account_id: UUID) -> Secret:
        return SecretMaker(b"k" * 32).secret(account_id, self.generations.setdefault(account_id, 1), THEN, THEN)

    async def rotate(self, connection: Any, account_id: UUID) -> Secret:
        self.generations[account_id] = self.generations.get(account_id, 0) + 1
        return await self.secret(account_id)

    async def deliveries(self, account_id: UUID, job_id: UUID) -> list[Delivery]:
        await self.jobs.get(account_id, job_id)
        return [each for each in self.made if each.job_id == job_id]

    async def redeliver(self, connection: Any, account_id: UUID, job_id: UUID) -> Delivery:
        job = await self.jobs.get(account_id, job_id)
        if job.finished_at is None:
            raise WrongState("Not yet.")
        url = "https://example.com/hook?token=secret"
        self.made.append(Delivery(uuid7(), job_id, f"job.{job.state}", url, "pending", THEN, None, None))
        return self.made[-1]


class WakeupDouble:
    """Counts how often dispatchers were told of work, and keeps of which jobs streams were told."""

    def __init__(self) -> None:
        self.asked = 0
        self.told: list[UUID] = []

    def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def ask(self) -> None:
        self.asked += 1

    def tell(self, job_id: UUID) -> None:
        self.told.append(job_id)


class HubDouble:
    """Nothing ever happens to a job."""

    def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def close(self) -> None:
        pass
