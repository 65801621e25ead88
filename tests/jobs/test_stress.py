"""Everything at once: submitters, cancellers, eight dispatchers, some of which die. Nothing is lost or waits forever."""

from __future__ import annotations

import asyncio
import random
import time
from uuid import UUID

import pytest

from core.errors import InsufficientBalance, QueueFull
from jobs.leases import Outcome, SessionEnded
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
        while self.goes_on:
            session = await self.world.leases.open_session(name)
            try:
                while self.goes_on:
                    await self.turn(session)
            except SessionEnded:
                self.ends.append("session ended")

    async def turn(self, session: int) -> None:
        choose, world = self.random, self.world
        await world.leases.beat(session)
        leases = [lease for pool in ("gpu", "cpu") for lease in await world.claim(4, pool, session)]
        if choose.random() < 0.03:
            await world.kill(session)
        self.ends += await asyncio.gather(*(self.work(lease) for lease in leases))
        if not leases:
            await asyncio.sleep(0.01)

    async def work(self, lease: Lease) -> str:
        choose, leases = self.random, self.world.leases
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
                return await self.finish(lease)
            case _:
                return await self.finish(lease)

    async def finish(self, lease: Lease) -> str:
        chain = await self.world.database.fetch_value("SELECT cardinality(pools) FROM job WHERE id = $1", lease.job_id)
        if lease.segment + 1 < chain:
            return await self.world.leases.segment_end(lease, {"segment": lease.segment})
        return await self.world.leases.settle(lease, "succeeded", DONE)


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
            await chains.finish(lease)
    assert await world.counts("queue") == [0]
    assert await world.counts("job WHERE finished_at IS NULL", "hold WHERE state = 'held'") == [0, 0]
    assert await world.database.fetch_value("SELECT sum(held) FROM wallet") == 0
    paid = await world.database.fetch_value("SELECT sum(amount) FROM job WHERE state = 'succeeded'")
    assert await world.database.fetch_value("SELECT sum(amount) FROM entry WHERE book = 'revenue'") == paid
