"""Accounts, jobs and dispatchers over one database, as tests want them: short to say, honest in what they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from accounts import accounts
from billing import wallets
from billing.wallets import Balance
from core.database import Database
from core.ids import uuid7
from jobs import pools
from jobs.leases import Ended, Leases, Outcome
from jobs.models import CLASSES, Failure, Job, Lease, Priority, Submission
from jobs.store import Jobs
from pricing.quotes import Quote

PRICE = 100
FAILURE = Failure("fetch_failed", "The URL did not answer.", retryable=False)
DONE = Outcome(
    outputs=({"key": "jobs/1/image.webp", "role": "primary"},),
    engine="e",
    weights_digest="d",
    stand_in=True,
    replica="r",
)


def submission(account: UUID, **changes: Any) -> Submission:
    """A valid submission, but for `changes`; `price` is in micro-dollars."""
    price = changes.pop("price", PRICE)
    fields: dict[str, Any] = {
        "task": "image.generate",
        "effective_input": {"prompt": "a tree", "seed": 7},
        "input_adjustments": [],
        "warnings": [],
        "quote": Quote(price, (), "test"),
        "pools": ("gpu",),
        "cost_seconds": 1.0,
        "priority": "standard",
        "request_id": "req_1",
        "idempotency_key": None,
        "fingerprint": b"f" * 32,
        "start_timeout_seconds": 3600,
    }
    return Submission(account_id=account, **(fields | changes))


class World:
    """What a test sees of the service."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs = Jobs(database)
        self.leases = Leases(database)
        self.session = 0

    async def open(self) -> None:
        """Two pools and one dispatcher."""
        await pools.declare(self.database, frozenset({"gpu", "cpu"}))
        await self.slots(gpu=2, cpu=2)
        self.session = await self.leases.open_session("first")

    async def slots(self, **slots: int) -> None:
        await pools.set_slots(self.database, slots)

    async def account(self, credit: int = 1_000_000, *, concurrency: int = 20, queue_limit: int = 10_000) -> UUID:
        async with self.database.transaction() as connection:
            made = await accounts.create(connection, "customer")
            await connection.execute(
                "UPDATE account SET concurrency = $2, queue_limit = $3 WHERE id = $1", made.id, concurrency, queue_limit
            )
            if credit:
                await wallets.topup(connection, made.id, credit, f"first:{made.id}")
        return made.id

    async def balance(self, account: UUID) -> Balance:
        return await wallets.balance(self.database, account)

    async def submit(self, account: UUID, **changes: Any) -> Job:
        return (await self.jobs.submit(submission(account, **changes))).job

    async def submit_many(
        self, account: UUID, count: int, *, priority: Priority = "standard", pool: str = "gpu", cost: float = 1.0
    ) -> list[UUID]:
        """`count` submits, each by the same SQL function, in one round trip."""
        made = [uuid7() for _ in range(count)]
        made.sort()
        await self.database.execute(
            """SELECT submit(id, $2, 'image.generate', '{}', '[]', '[]', '{}', $6, ARRAY[$3], $4, $5::smallint, 'req',
                 'route', NULL, '', interval '1 hour', NULL, NULL, '{}')
               FROM unnest($1::uuid[]) WITH ORDINALITY AS given (id, place)
               ORDER BY place""",
            made,
            account,
            pool,
            cost,
            CLASSES[priority],
            PRICE,
        )
        return made

    async def claim(self, most: int = 32, pool: str = "gpu", session: int | None = None) -> list[Lease]:
        return await self.leases.claim(pool, most, session or self.session)

    async def claim_one(self, pool: str = "gpu", session: int | None = None) -> Lease:
        (lease,) = await self.claim(1, pool, session)
        return lease

    async def succeed(self, lease: Lease) -> Ended:
        return await self.leases.settle(lease, "succeeded", DONE)

    async def serve(self, count: int, pool: str = "gpu") -> list[Lease]:
        """Claim and finish up to `count` jobs, one after another, in the order in which they were claimed."""
        served: list[Lease] = []
        while len(served) < count:
            leases = await self.claim(1, pool)
            if not leases:
                break
            served += leases
            assert await self.succeed(leases[0]) == "succeeded"
        return served

    async def reread(self, job: Job | Lease | UUID) -> Job:
        job_id = job if isinstance(job, UUID) else job.job_id if isinstance(job, Lease) else job.id
        owner = await self.database.fetch_value("SELECT account_id FROM job WHERE id = $1", job_id)
        return await self.jobs.get(owner, job_id, details=True)

    async def queue(self, account: UUID, columns: str = "state") -> list[Any]:
        """One column of the account's queue rows, in the order of their jobs."""
        rows = await self.database.fetch(f"SELECT {columns} FROM queue WHERE account_id = $1 ORDER BY job_id", account)
        return [row[0] for row in rows]

    async def events(self, job_id: UUID) -> list[tuple[str, Any]]:
        rows = await self.database.fetch("SELECT type, data FROM event WHERE job_id = $1 ORDER BY seq", job_id)
        return [(row["type"], row["data"]) for row in rows]

    async def restart_grace(self, interval: str) -> None:
        """For how long after PostgreSQL's start nobody is taken for dead."""
        await self.database.execute(
            "CREATE OR REPLACE FUNCTION restart_grace() RETURNS interval LANGUAGE sql IMMUTABLE"
            f" AS $$ SELECT interval '{interval}' $$"
        )

    async def kill(self, session: int) -> None:
        """What a dead dispatcher looks like: no beat for longer than a session lives."""
        await self.database.execute(
            "UPDATE session SET beat_at = clock_timestamp() - interval '1 minute' WHERE id = $1", session
        )

    async def counts(self, *tables: str) -> list[int]:
        return [int(await self.database.fetch_value(f"SELECT count(*) FROM {table}")) for table in tables]


def ids(jobs: Sequence[Job | Lease]) -> list[UUID]:
    """The ids of jobs or of the leases' jobs."""
    return [job.job_id if isinstance(job, Lease) else job.id for job in jobs]
