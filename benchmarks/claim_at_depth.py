"""Does a claim take longer the more jobs wait, and while somebody holds an old snapshot open?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median

from benchmarks import submission
from benchmarks.measuring import Round, in_turns, scaled
from benchmarks.results import Result
from benchmarks.services import administer, created, opened
from core.database import Database
from jobs import pools
from jobs.leases import Leases, Outcome
from jobs.models import Lease
from killatamata.embedded_postgres import EmbeddedPostgres

SHALLOW = 100
DEEP = scaled(100_000, 400)
SNAPSHOT_AGE = scaled(40_000, 40)
"""Jobs that were claimed, done and replaced since the old snapshot was taken."""

_EACH = 20
"""Jobs per account: its concurrency, so that every queued job is ready."""
_BATCH = 20
_BATCHES_PER_SWEEP = 50
_WORK_BEFORE = scaled(2_000, 40)
_POOL = "benchmark"
_ROUNDS = scaled(10)
_CLAIMS = scaled(40, 2)


@dataclass(frozen=True)
class _Dispatcher:
    """One that claims, ends what it claimed, and lets each account send its next job, so that the depth stays."""

    database: Database
    leases: Leases
    session: int

    @classmethod
    async def on(cls, database: Database) -> _Dispatcher:
        leases = Leases(database)
        return cls(database, leases, await leases.open_session("benchmark"))

    async def turn(self) -> Round:
        """Time single claims, after the sweep that one dispatcher makes each second."""
        await self.leases.sweep(most_running=20)
        latencies = []
        for _ in range(_CLAIMS):
            before = time.perf_counter()
            claimed = await self.leases.claim(_POOL, 1, self.session)
            latencies.append(time.perf_counter() - before)
            await self._replace(claimed)
        return Round.of(latencies, sum(latencies))

    async def work(self, jobs: int) -> None:
        """Claim and replace so many; one batch at a time, because two that end several jobs would wait for each other."""
        for number in range(jobs // _BATCH):
            if number % _BATCHES_PER_SWEEP == 0:
                await self.leases.sweep(most_running=20)
            await self._replace(await self.leases.claim(_POOL, _BATCH, self.session))

    async def _replace(self, claimed: list[Lease]) -> None:
        ended = await self.database.fetch(
            "SELECT settle(job, fence, 'succeeded', $3, NULL) FROM unnest($1::uuid[], $2::int[]) AS mine (job, fence)",
            [lease.job_id for lease in claimed],
            [lease.fence for lease in claimed],
            Outcome().as_json(),
        )
        if [row[0] for row in ended] != ["succeeded"] * len(claimed) or not claimed:
            raise RuntimeError("there was nothing to claim, or what was claimed could not be ended")
        await submission.submit_for(self.database, _POOL, [lease.account_id for lease in claimed])


async def claim_at_depth(postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """Time of `Leases.claim` at 100 000 queued jobs, without and with an old snapshot held open, ÷ at 100.

    Commits wait for no disk here, which would hide a difference. Every side has a server's database to itself.
    """
    async with AsyncExitStack() as stack:
        for name, depth in (("shallow", SHALLOW), ("deep", DEEP)):
            await stack.enter_async_context(created(postgres, name))
            async with opened(postgres, name) as database:
                await _queue(database, depth)
        await stack.enter_async_context(created(postgres, "aged", template="deep"))
        names = ("shallow", "deep", "aged")
        await administer(postgres, *(f"ALTER DATABASE {name} SET synchronous_commit = off" for name in names))
        shallow, deep, aged = [
            await _Dispatcher.on(await stack.enter_async_context(opened(postgres, name))) for name in names
        ]
        await stack.enter_async_context(_old_snapshot(aged))
        rounds = await in_turns(_ROUNDS, shallow.turn, deep.turn, aged.turn)
    at_shallow, at_deep, at_aged = (median(each.p50_ms for each in side) for side in rounds)
    versus = f"at {SHALLOW} queued"
    yield Result("claim_at_depth.queued", at_deep, "ms", versus, at_shallow, "lower", 1.5)
    yield Result("claim_at_depth.old_snapshot", at_aged, "ms", versus, at_shallow, "lower", 3)


async def _queue(database: Database, depth: int) -> None:
    """So many queued jobs, in a database that has seen some work: PostgreSQL plans badly for tables it knows as empty."""
    await pools.declare(database, frozenset({_POOL}))
    await pools.set_slots(database, {_POOL: 1_000})
    accounts = await submission.customers(database, depth // _EACH)
    for _ in range(_EACH):
        await asyncio.gather(*(submission.submit_for(database, _POOL, accounts[half::2]) for half in (0, 1)))
    dispatcher = await _Dispatcher.on(database)
    await dispatcher.work(_WORK_BEFORE)
    await database.execute("VACUUM ANALYZE")


@asynccontextmanager
async def _old_snapshot(dispatcher: _Dispatcher) -> AsyncIterator[None]:
    """A snapshot held open since `SNAPSHOT_AGE` jobs ago."""
    async with dispatcher.database.pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        await connection.fetchval("SELECT count(*) FROM pool")
        await dispatcher.work(SNAPSHOT_AGE)
        yield
