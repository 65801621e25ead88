"""Watching jobs: every event once and in order, whatever becomes of notifications, connections and readers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from accounts.keys import REVOKED_CHANNEL, Keys
from core.database import Database
from jobs import events
from jobs.events import PAGE, Event, Hub, Place, Watch, read
from jobs.leases import Leases, Outcome
from jobs.models import Lease
from jobs.wakeup import EVENT_CHANNEL, Wakeup
from tests.jobs.world import DONE, FAILURE, World
from tests.leasing import until_true


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[Hub]:
    made = Hub(database, Keys(database, b"pepper"))
    made.start()
    yield made
    await made.stop()


@pytest.fixture
async def hub(database: Database) -> AsyncIterator[Hub]:
    async with listening(database) as made:
        yield made


async def running(world: World) -> Lease:
    """A job that runs; it has two events."""
    await world.submit(await world.account())
    return await world.claim_one()


async def followed(watch: Watch, pause: float = 0) -> list[Event]:
    """Every event up to the last one, read with pauses of up to so many seconds."""
    found: list[Event] = []
    with watch:
        async with asyncio.timeout(60):
            while not found or not found[-1].final:
                found += await watch.take()
                await asyncio.sleep(random.random() * pause)
    return found


async def ended(watch: Watch) -> bool:
    """Whether the watch is ended, not merely silent; it has nothing to give."""
    return await asyncio.wait_for(watch.take(), 10) == []


def numbers(found: Iterable[Event]) -> list[int]:
    return [event.seq for event in found]


async def new_key(world: World) -> tuple[UUID, str]:
    """An account and the prefix of its key."""
    account = await world.account()
    async with world.database.transaction() as connection:
        _, key = await Keys(world.database, b"pepper").create(connection, account, "test")
    return account, key.prefix


async def revoke(world: World, account: UUID, prefix: str) -> None:
    async with world.database.transaction() as connection:
        await Keys(world.database, b"pepper").revoke(connection, account, prefix)


async def test_a_watch_gives_what_was_and_what_comes(world: World, hub: Hub) -> None:
    lease = await running(world)
    following = asyncio.create_task(followed(hub.watch(lease.job_id, 0)))
    await world.leases.stage_begin(lease, "encode")
    await world.leases.progress(lease, 0.5)
    await world.succeed(lease)
    found = await following
    assert [(event.seq, event.type, event.final) for event in found] == [
        (1, "state", False),
        (2, "state", False),
        (3, "stage", False),
        (4, "progress", False),
        (5, "state", True),
    ]
    assert [event.data for event in found[1:]] == [
        {"status": "running"},
        {"stage": "encode"},
        {"progress": 0.5},
        {"status": "succeeded"},
    ]
    assert hub.count() == 0


async def test_an_event_is_heard_of_and_not_only_polled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 3600.0)
    lease = await running(world)
    wakeup = Wakeup(world.database)
    wakeup.start()
    async with listening(world.database) as hub:
        with hub.watch(lease.job_id, 2) as watch:
            await asyncio.sleep(0.2)
            await Leases(world.database, wakeup.tell).settle(lease, "failed", Outcome(), FAILURE)
            (event,) = await asyncio.wait_for(watch.take(), 10)
    assert event.data == {"status": "failed", "failure": FAILURE.as_json()}
    await wakeup.stop()


async def test_others_notifications_do_not_put_off_the_poll(world: World, hub: Hub) -> None:
    busy, quiet = await running(world), await running(world)

    async def chatter() -> None:
        while True:
            await world.database.execute("SELECT pg_notify($1, $2)", EVENT_CHANNEL, str(busy.job_id))
            await asyncio.sleep(0.01)

    chattering = asyncio.create_task(chatter())
    with hub.watch(busy.job_id, 2), hub.watch(quiet.job_id, 2) as watch:
        await asyncio.sleep(0.2)
        await world.leases.progress(quiet, 0.5)
        assert numbers(await asyncio.wait_for(watch.take(), 10)) == [3]
    chattering.cancel()


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_is_lost_every_event_comes_once_and_in_order(
    world: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PAGE", 3)
    monkeypatch.setattr(events, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(events, "_PATIENCE_SECONDS", 0.02)
    chance = random.Random(seed)
    real = read

    async def unreliable(database: Database, places: Iterable[Place]) -> dict[Place, list[Event]]:
        if chance.random() < 0.2:
            raise ConnectionResetError
        found = await real(database, places)
        if chance.random() < 0.1:
            raise ConnectionResetError
        return found

    async def work(lease: Lease) -> None:
        for step in range(25):
            await world.leases.progress(lease, step / 25)
            if chance.random() < 0.3:
                payload = chance.choice(["", str(lease.job_id), "nonsense", f"{lease.job_id},{other}"])
                await world.database.execute("SELECT pg_notify($1, $2)", EVENT_CHANNEL, payload)
            if chance.random() < 0.05:
                await world.database.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
                )
            await asyncio.sleep(chance.random() * 0.02)
        await world.succeed(lease)

    monkeypatch.setattr(events, "read", unreliable)
    leases = [await running(world) for _ in range(3)]
    other = leases[0].job_id
    async with listening(world.database) as hub:
        working = [asyncio.create_task(work(lease)) for lease in leases]
        asked = [(lease.job_id, after) for lease in leases for after in (0, 0, 1, 2)]
        reading = [followed(hub.watch(*place), pause) for place in asked for pause in (0, 0.05)]
        found = await asyncio.gather(*reading)
        await asyncio.gather(*working)
        assert hub.count() == 0
    assert [numbers(each) for each in found] == [list(range(after + 1, 29)) for _, after in asked for _ in range(2)]


async def test_a_reader_that_takes_nothing_holds_one_page(world: World, hub: Hub) -> None:
    lease = await running(world)
    await world.database.execute(
        "SELECT job_progress($1, $2, (step / 1000.0)::real) FROM generate_series(1, 1000) AS step",
        lease.job_id,
        lease.fence,
    )
    slow = hub.watch(lease.job_id, 0)
    await until_true(lambda: slow.after, "a first page")
    await world.succeed(lease)
    assert numbers(await followed(hub.watch(lease.job_id, 900))) == list(range(901, 1004))
    assert (slow.after, len(slow._given)) == (PAGE, PAGE)
    assert numbers(await followed(slow)) == list(range(1, 1004))


async def test_readers_at_one_place_share_one_read(world: World, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Place]] = []
    real = read

    async def counted(database: Database, places: Iterable[Place]) -> dict[Place, list[Event]]:
        asked.append(list(places))
        return await real(database, places)

    monkeypatch.setattr(events, "read", counted)
    leases = [await running(world) for _ in range(2)]
    watches = [hub.watch(lease.job_id, 0) for lease in leases for _ in range(50)]
    assert {tuple(numbers(await watch.take())) for watch in watches} == {(1, 2)}
    assert [sorted(places) for places in asked] == [sorted((lease.job_id, 0) for lease in leases)]
    for watch in watches:
        hub.leave(watch)


async def test_nothing_is_read_while_nobody_watches(world: World, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(database: Database, places: Iterable[Place]) -> Any:
        raise AssertionError("nobody asked")

    monkeypatch.setattr(events, "read", never)
    lease = await running(world)
    hub.leave(hub.watch(lease.job_id, 0))
    await world.database.execute("SELECT pg_notify($1, $2)", EVENT_CHANNEL, str(lease.job_id))
    await world.database.execute("SELECT pg_notify($1, '')", EVENT_CHANNEL)
    await asyncio.sleep(0.2)
    assert (hub.count(), hub._watches, hub._by_key) == (0, {}, {})


async def test_a_revoked_key_loses_its_watches_and_no_other(world: World, hub: Hub) -> None:
    (account, prefix), (_, kept) = await new_key(world), await new_key(world)
    lease = await running(world)
    with (
        hub.watch(lease.job_id, 2, key_prefix=prefix) as watch,
        hub.watch(lease.job_id, 2, key_prefix=kept) as other,
        hub.watch(lease.job_id, 2) as nobodys,
    ):
        assert (hub.count(), hub.count(prefix), hub.count(kept), hub.count("none")) == (3, 1, 1, 0)
        await revoke(world, account, prefix)
        assert await ended(watch)
        await world.succeed(lease)
        assert numbers(await other.take()) == numbers(await nobodys.take()) == [3]


async def test_a_revocation_that_was_not_heard_of_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "RECHECK_SECONDS", 0.2)
    _, prefix = await new_key(world)
    lease = await running(world)
    async with listening(world.database) as hub:
        with hub.watch(lease.job_id, 2, key_prefix=prefix) as watch:
            await asyncio.sleep(0.1)
            await world.database.execute("UPDATE api_key SET revoked_at = now() WHERE prefix = $1", prefix)
            assert await ended(watch)


async def test_a_key_revoked_just_before_its_watch_began_loses_it(world: World, hub: Hub) -> None:
    account, prefix = await new_key(world)
    lease = await running(world)
    await revoke(world, account, prefix)
    await asyncio.sleep(0.1)
    with hub.watch(lease.job_id, 2, key_prefix=prefix) as watch:
        assert await ended(watch)


async def test_a_revoke_is_told_when_it_is_committed(world: World) -> None:
    account, prefix = await new_key(world)
    listener = await world.database.listen(REVOKED_CHANNEL)
    await revoke(world, account, prefix[:5])
    assert await asyncio.wait_for(anext(listener), 5) == (REVOKED_CHANNEL, prefix)
    await listener.close()


async def test_a_closed_hub_ends_what_is_there_and_what_comes(world: World, hub: Hub) -> None:
    lease = await running(world)
    with hub.watch(lease.job_id, 2) as watch:
        hub.close()
        assert await ended(watch)
    with hub.watch(lease.job_id, 2) as late:
        assert await ended(late)


async def test_a_hub_stops_even_when_it_is_just_woken(world: World) -> None:
    lease = await running(world)
    for _ in range(20):
        async with listening(world.database) as hub:
            await asyncio.sleep(0.01)
            hub.look(lease.job_id)


async def test_leaving_twice_is_no_error(world: World, hub: Hub) -> None:
    lease = await running(world)
    one, two = (hub.watch(lease.job_id, 2, key_prefix="aaaaaaaa") for _ in range(2))
    hub.leave(one)
    hub.leave(one)
    assert (hub.count(), hub.count("aaaaaaaa")) == (1, 1)
    hub.leave(two)
    assert (hub.count(), hub.count("aaaaaaaa")) == (0, 0)


async def test_the_end_of_a_job_can_be_told_without_its_events(world: World) -> None:
    done, failed = await running(world), await running(world)
    await world.succeed(done)
    await world.leases.settle(failed, "failed", Outcome(), FAILURE)
    for lease in (done, failed):
        job = await world.reread(lease)
        (last,) = (await read(world.database, [(job.id, 2)]))[job.id, 2]
        made = Event.end_of(job)
        assert (made.seq, made.type, made.data, made.final) == (last.seq, last.type, last.data, True)
        assert abs((made.at - last.at).total_seconds()) < 1


async def test_every_change_by_a_dispatcher_is_told(world: World) -> None:
    told: list[UUID] = []
    leases = Leases(world.database, told.append)

    async def step(count: int, call: Any) -> None:
        told.clear()
        await call
        assert len(told) == count
        assert set(told) <= {job.id}

    job = await world.submit(await world.account(), pools=("gpu", "cpu"))
    await step(1, leases.claim("gpu", 1, world.session))
    lease = Lease(job.id, 1, job.account_id, job.task, 0, {}, None, "req")
    await step(1, leases.stage_begin(lease, "encode"))
    await step(1, leases.progress(lease, 0.5))
    await step(1, leases.hand_back(lease, "test", counts=False))
    await step(1, leases.claim("gpu", 1, world.session))
    await step(1, leases.hand_back_strays(world.session, []))
    lease = (await leases.claim("gpu", 1, world.session))[0]
    await step(1, leases.segment_end(lease, {}))
    await leases.claim("cpu", 1, world.session)
    await world.kill(world.session)
    second = await leases.open_session("second")
    await step(1, leases.beat(second))
    lease = (await leases.claim("cpu", 1, second))[0]
    await step(1, leases.settle(lease, "succeeded", DONE))
    job = await world.submit(job.account_id, start_timeout_seconds=0)
    await step(1, leases.time_out_starts())
    job = await world.submit(job.account_id, cancel_after_seconds=0)
    await step(1, leases.cancel_due(most_running=20))
