"""Permits: a replica may go on only while its fence is current, its lease lives and nobody asked for a stop."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from jobs import permits
from jobs.models import Lease
from jobs.permits import Permit
from tests.jobs.world import World


@pytest.fixture
async def lease(world: World) -> Lease:
    await world.submit(await world.account())
    return await world.claim_one()


class Watch:
    """A permit and whether it was lost."""

    def __init__(self, world: World, lease: Lease) -> None:
        self.lost = asyncio.Event()
        self.calls = 0
        self.permit = Permit(world.database, lease.job_id, lease.fence, self._lose)

    def _lose(self) -> None:
        self.calls += 1
        self.lost.set()

    async def within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self.lost.wait(), seconds)
        except TimeoutError:
            return False
        return True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permits, "REREAD_SECONDS", 0.05)


async def test_a_permit_is_held_while_the_lease_is(world: World, lease: Lease) -> None:
    watch = Watch(world, lease)
    async with watch.permit as permit:
        assert await permit.held()
        assert not await watch.within(0.3)
    await world.succeed(lease)
    assert not await watch.permit.held()
    assert watch.calls == 0


async def test_a_cancel_loses_it_once(world: World, lease: Lease) -> None:
    watch = Watch(world, lease)
    async with watch.permit:
        await world.jobs.cancel(lease.account_id, lease.job_id)
        assert await watch.within(2)
        await asyncio.sleep(0.2)
    assert watch.calls == 1


async def test_a_new_fence_loses_it(world: World, lease: Lease) -> None:
    watch = Watch(world, lease)
    async with watch.permit:
        await world.leases.hand_back(lease, "handed_back", counts=False)
        again = await world.claim_one()
        assert await watch.within(2)
    assert await Permit(world.database, again.job_id, again.fence, lambda: None).held()


async def test_a_silent_session_loses_it_before_anybody_reclaims(world: World, lease: Lease) -> None:
    await world.kill(world.session)
    assert not await Watch(world, lease).permit.held()
    await world.leases.beat(world.session)
    assert await Watch(world, lease).permit.held()
    await world.leases.close_session(world.session)
    assert not await Watch(world, lease).permit.held()


async def test_a_fresh_postgresql_forgives_silence_but_not_a_cancel(world: World, lease: Lease) -> None:
    await world.kill(world.session)
    await world.restart_grace("100 years")
    assert await Watch(world, lease).permit.held()
    await world.jobs.cancel(lease.account_id, lease.job_id)
    assert not await Watch(world, lease).permit.held()
    await world.leases.close_session(world.session)


async def test_waking_reads_again_at_once(world: World, lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permits, "REREAD_SECONDS", 30.0)
    watch = Watch(world, lease)
    async with watch.permit as permit:
        assert not await watch.within(0.2)
        await world.jobs.cancel(lease.account_id, lease.job_id)
        permit.wake()
        assert await watch.within(2)


async def test_a_wake_during_a_read_is_not_forgotten(
    world: World, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "REREAD_SECONDS", 30.0)
    watch = Watch(world, lease)
    real = watch.permit.held

    async def held() -> bool:
        before = await real()
        monkeypatch.setattr(watch.permit, "held", real)
        await world.jobs.cancel(lease.account_id, lease.job_id)
        watch.permit.wake()
        return before

    monkeypatch.setattr(watch.permit, "held", held)
    async with watch.permit:
        watch.permit.wake()
        assert await watch.within(2)


async def test_a_wake_between_the_first_read_and_the_watch_is_not_forgotten(
    world: World, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "REREAD_SECONDS", 30.0)
    watch = Watch(world, lease)
    assert await watch.permit.held()
    await world.jobs.cancel(lease.account_id, lease.job_id)
    watch.permit.wake()
    async with watch.permit:
        assert await watch.within(2)


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), asyncpg.DeadlockDetectedError("x")])
async def test_a_blind_replica_goes_on_for_a_while_only(
    world: World, lease: Lease, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(permits, "BLIND_SECONDS", 0.4)
    watch = Watch(world, lease)

    async def blind() -> bool:
        raise error

    monkeypatch.setattr(watch.permit, "held", blind)
    began = time.monotonic()
    async with watch.permit:
        assert await watch.within(3)
    assert time.monotonic() - began >= 0.4


async def test_sight_that_comes_back_starts_the_time_anew(
    world: World, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "BLIND_SECONDS", 0.4)
    watch = Watch(world, lease)
    answers = [True, *[False] * 4] * 6
    reads = iter(answers)

    async def flickering() -> bool:
        if not next(reads, True):
            raise ConnectionResetError
        return True

    monkeypatch.setattr(watch.permit, "held", flickering)
    async with watch.permit:
        assert not await watch.within(1.0)


def test_a_replica_outlives_its_lease_by_30_seconds_when_blind() -> None:
    assert permits.BLIND_SECONDS == 36.0
