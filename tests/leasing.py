"""Jobs to test with: submitted by an account with credit, claimed by a session that beats."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from accounts import accounts
from billing import wallets
from core.database import Database
from core.ids import uuid7
from jobs.leases import Leases
from jobs.models import Job, Lease, Submission
from jobs.store import Jobs
from pricing.quotes import Quote

PRICE = 5_000
CREDIT = 1_000_000
_numbers = itertools.count()


def new_pool() -> str:
    """The name of a pool that no other test uses."""
    return f"pool-{next(_numbers)}"


async def submitted(
    database: Database,
    pool: str,
    given: dict[str, Any] | None = None,
    *,
    task: str = "image.generate",
    account_id: UUID | None = None,
) -> Job:
    """A queued job, of a new account unless one is given."""
    async with database.transaction() as connection:
        if account_id is None:
            account_id = (await accounts.create(connection, "customer")).id
            await wallets.topup(connection, account_id, CREDIT, f"test:{account_id}")
        await connection.execute(
            "INSERT INTO pool (name, slots) VALUES ($1, 5) ON CONFLICT (name) DO UPDATE SET slots = 5, paused = false",
            pool,
        )
    submission = Submission(
        account_id=account_id,
        task=task,
        effective_input=given or {},
        input_adjustments=[],
        warnings=[],
        quote=Quote(PRICE, (), "test"),
        pools=(pool,),
        cost_seconds=1.0,
        priority="standard",
        request_id=f"req_{uuid7().hex}",
        idempotency_key=None,
        fingerprint=b"",
        start_timeout_seconds=600,
    )
    return (await Jobs(database).submit(submission)).job


@asynccontextmanager
async def session(database: Database) -> AsyncIterator[int]:
    """A session that beats until the block ends; after it, it is silent, as a killed dispatcher's is."""
    leases = Leases(database)
    number = await leases.open_session("test")

    async def beat() -> None:
        while True:
            await leases.beat(number)
            await asyncio.sleep(0.5)

    beating = asyncio.create_task(beat())
    try:
        yield number
    finally:
        beating.cancel()
        await asyncio.wait({beating})


async def leased(database: Database, number: int, pool: str, given: dict[str, Any] | None = None) -> Lease:
    """A new job of the pool, leased to the session."""
    job = await submitted(database, pool, given)
    (lease,) = await Leases(database).claim(pool, 1, number)
    assert lease.job_id == job.id
    return lease


async def cancelled(database: Database, lease: Lease) -> None:
    """The job's owner asks for a stop."""
    await Jobs(database).cancel(lease.account_id, lease.job_id)


async def expired(database: Database, number: int) -> None:
    """The session has been silent for so long that it counts as dead."""
    await database.execute("UPDATE session SET beat_at = beat_at - interval '1 minute' WHERE id = $1", number)


async def until_true(check: Any, what: str, seconds: float = 15) -> Any:
    """The first true answer of `check`, a function or a coroutine function without arguments."""
    answer: Any = None
    async with asyncio.timeout(seconds + 30):
        for _ in range(int(seconds / 0.05)):
            answer = check()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}; last seen: {answer!r}")


async def job_of(database: Database, lease_or_job: Lease | Job) -> Job:
    """The job as its owner reads it."""
    job_id = lease_or_job.job_id if isinstance(lease_or_job, Lease) else lease_or_job.id
    return await Jobs(database).get(lease_or_job.account_id, job_id, details=True)


async def money(database: Database, job: Lease | Job) -> tuple[int, int]:
    """What the job's owner has available and held, in micro-dollars; the ledger must agree."""
    found = await wallets.balance(database, job.account_id)
    assert not [drift for drift in await wallets.drift(database) if drift.account_id == job.account_id]
    return found.available, found.held


def outcomes(job: Job) -> Sequence[str | None]:
    """How the job's attempts ended, in order."""
    return [attempt.outcome for attempt in job.attempts]
