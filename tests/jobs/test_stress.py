"""Everything at once: submitters, cancellers, eight dispatchers, some of which die. Nothing is lost or waits forever."""

from __future__ import annotations

import asyncio
import random
import time
from uuid import UUID

import pytest

from core.errors import InsufficientBalance, QueueFull
from jobs.leases import Leases, Outcome, SessionEnded
from jobs.models import Lease
from tests.jobs.invariants import broken
from tests.jobs.world import DONE, FAILURE, World

SECONDS = 5.0
CHAINS = (("gpu",), ("cpu",), ("gpu", "cpu"), ("cpu", "gpu"), ("gpu", "cpu", "gpu"))


class Storm:
    """Random users and dispatchers until a point in time."""

    def __init__(self, world: World, accounts: list[UUID], seed: int) -> None:
        self.world = world
        self.accounts = accounts
        self.random = random.Random(seed)
        self.end = time.monotonic() + SECONDS
        self.jobs: list[tuple[UUID, UUID]] = []
        self.ends: list[str] = []

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.end

    async def user(self) -> None:
        choose = self.random
        while self.goes_on:
            account = choose.choice(self.accounts)
            try:
                job = await self.world.submit(
                    account,
                    pools=choose.choice(CHAINS),
                    priority=choose.choice(("interactive", "standard", "batch")),
                    cost_seconds=choose.choice((0.5, 1.0, 4.0)),
                    idempotency_key=str(choose.randrange(2_000)),
                    start_timeout_seconds=choose.choice((0, 3600, 3600, 3600)),
                )
                self.jobs.append((account, job.id))
            except (InsufficientBalance, QueueFull):
                await asyncio.sleep(0.01)

    async def canceller(self) -> None:
        while self.goes_on:
            await asyncio.sleep(0.005)
            if self.jobs:
                await self.world.jobs.cancel(*self.random.choice(self.jobs[-40:]))

    async def sweeper(self) -> None:
        while self.goes_on:
            await self.world.leases.sweep(most_running=20)
            await asyncio.sleep(0.1)

    async def dispatcher(self, name: str) -> None:
        leases = Leases(self.world.database)
        while self.goes_on:
            session = await leases.open_session(name)
            try:
                while self.goes_on:
                    await self.turn(leases, session)
            except SessionEnded:
                self.ends.append("session ended")

    async def turn(self, leases: Leases, session: int) -> None:
        choose, world = self.random, self.world
        await leases.beat(session)
        claimed = [lease for pool in ("gpu", "cpu") for lease in await leases.claim(pool, 4, session)]
        if choose.random() < 0.03:
            await world.kill(session)
        self.ends += await asyncio.gather(*(self.work(leases, lease) for lease in claimed))
        if not claimed:
            await asyncio.sleep(0.01)

    async def work(self, leases: Leases, lease: Lease) -> str:
        choose = self.random
        await leases.stage_begin(lease, "model")
        await leases.progress(lease, choose.random())
        await leases.stage_end(lease, "model", 0.1)
        match choose.choices(("done", "failed", "stopped", "died", "back", "late"), (60, 5, 5, 10, 10, 10))[0]:
            case "failed":
                return await leases.settle(lease, "failed", Outcome(), FAILURE)
            case "stopped":
                return await leases.settle(lease, "cancelled", Outcome(stopped_at_step=1))
            case "died":
                return await leases.hand_back(lease, "replica_died", counts=True)
            case "back":
                return await leases.hand_back(lease, "handed_back", counts=False)
            case "late":
                await leases.hand_back(lease, "handed_back", counts=False)
                return await self.finish(leases, lease)
            case _:
                return await self.finish(leases, lease)

    async def finish(self, leases: Leases, lease: Lease) -> str:
        chain = await self.world.database.fetch_value("SELECT cardinality(pools) FROM job WHERE id = $1", lease.job_id)
        if lease.segment + 1 < chain:
            return await leases.segment_end(lease, {"segment": lease.segment})
        return await leases.settle(lease, "succeeded", DONE)


async def test_dispatchers_that_settle_many_jobs_of_the_same_accounts_never_wait_for_each_other(world: World) -> None:
    await world.slots(gpu=400)
    accounts = [await world.account(concurrency=7) for _ in range(5)]
    for account in accounts:
        await world.submit_many(account, 80)
    before = await deadlocks(world)
    ends: list[str] = []
    urgent: list[UUID] = []

    async def dispatcher() -> None:
        leases = Leases(world.database)
        session = await leases.open_session("one of many")
        while claimed := await leases.claim("gpu", 12, session):
            random.shuffle(claimed)
            ends.extend(await asyncio.gather(*(leases.settle(lease, "succeeded", DONE) for lease in claimed)))

    async def user(account: UUID) -> None:
        for _ in range(10):
            job = await world.submit(account, priority="interactive")
            await world.jobs.cancel(account, job.id)
            urgent.append(job.id)

    await asyncio.gather(*(dispatcher() for _ in range(6)), *(user(account) for account in accounts))
    await world.leases.sweep(most_running=20)
    await dispatcher()
    assert await deadlocks(world) == before
    assert await broken(world.database) == []
    assert set(ends) <= {"succeeded", "cancelled"}
    assert len(urgent) == 50
    assert await world.counts("queue", "job WHERE state = 'succeeded'") == [0, ends.count("succeeded")]
    assert await world.counts("job WHERE finished_at IS NOT NULL") == [450]


async def deadlocks(world: World) -> int:
    await world.database.execute("SELECT pg_stat_force_next_flush()")
    found: int = await world.database.fetch_value(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    return found


@pytest.mark.parametrize("seed", [1])
async def test_a_storm_loses_nothing(world: World, seed: int) -> None:
    await world.slots(gpu=12, cpu=12)
    accounts = [
        await world.account(2_000, concurrency=2, queue_limit=15),
        await world.account(8_000, concurrency=4),
        await world.account(10_000_000, concurrency=6, queue_limit=60),
    ]
    before = await deadlocks(world)
    storm = Storm(world, accounts, seed)
    await asyncio.gather(
        *(storm.dispatcher(f"d{number}") for number in range(8)),
        *(storm.user() for _ in range(4)),
        *(storm.canceller() for _ in range(2)),
        storm.sweeper(),
    )
    assert await deadlocks(world) == before
    assert await broken(world.database, at_rest=False) == []
    assert {"succeeded", "failed", "cancelled", "queued", "stale", "session ended"} <= set(storm.ends)

    await world.database.execute("UPDATE session SET ended_at = now() WHERE ended_at IS NULL")
    last = await world.leases.open_session("last")
    await world.leases.beat(last)
    await world.leases.sweep(most_running=20)
    assert await broken(world.database) == []

    chains = Storm(world, accounts, seed)
    while leases := [lease for pool in ("gpu", "cpu") for lease in await world.claim(32, pool, last)]:
        for lease in leases:
            await chains.finish(world.leases, lease)
    assert await world.counts("queue") == [0]
    assert await world.counts("job WHERE finished_at IS NULL", "hold WHERE state = 'held'") == [0, 0]
    assert await world.database.fetch_value("SELECT sum(held) FROM wallet") == 0
    paid = await world.database.fetch_value("SELECT sum(amount) FROM job WHERE state = 'succeeded'")
    assert await world.database.fetch_value("SELECT sum(amount) FROM entry WHERE book = 'revenue'") == paid
