"""Back-pressure: a pool's line is as long as its limit lets it be, and one account's flood is its own burden."""

from __future__ import annotations

from uuid import UUID

import pytest

from core.errors import PoolOverloaded
from core.metrics import REGISTRY
from jobs import pools, snapshot
from jobs.admission import Admission
from jobs.interventions import Operator, intervene
from jobs.snapshot import Queues
from tests.jobs.world import World

LIMIT = 60.0


@pytest.fixture
async def limited(world: World) -> World:
    """`gpu` has two slots and may have a minute of work waiting; `cpu` has no limit."""
    await pools.declare(world.database, frozenset({"cpu", "gpu"}), {"gpu": LIMIT, "cpu": None})
    return world


@pytest.fixture
def admission(limited: World, monkeypatch: pytest.MonkeyPatch) -> Admission:
    """Reads the queue anew for each check."""
    monkeypatch.setattr(snapshot, "FRESH_SECONDS", 0.0)
    return Admission(Queues(limited.database))


async def refused(admission: Admission, account: UUID, *pools: str) -> PoolOverloaded | None:
    try:
        await admission.check(account, pools or ("gpu",), 1.0)
    except PoolOverloaded as error:
        return error
    return None


async def test_an_empty_pool_takes_any_job(limited: World, admission: Admission) -> None:
    await admission.check(await limited.account(), ("gpu",), 10 * LIMIT)


async def test_a_job_is_refused_when_too_much_waits_before_it_and_told_when_it_fits(
    limited: World, admission: Admission
) -> None:
    account = await limited.account()
    await limited.submit_many(account, 12, cost=10)
    assert await refused(admission, account) is None, "the minute is full, not exceeded"
    await limited.submit_many(account, 1, cost=15)
    error = await refused(admission, account)
    assert error is not None
    assert (error.status, error.headers["Retry-After"]) == (503, "8")
    assert "in 8 seconds, with the same idempotency key" in error.message
    assert await refused(admission, await limited.account()) is not None, "all of it is in line before everybody"


async def test_work_counts_while_it_runs_and_no_more_when_it_has_ended(limited: World, admission: Admission) -> None:
    account = await limited.account()
    await limited.submit_many(account, 2, cost=100)
    leases = await limited.claim()
    assert await refused(admission, account) is not None
    await limited.succeed(leases[0])
    assert await refused(admission, account) is None


async def test_more_replicas_let_more_wait(limited: World, admission: Admission) -> None:
    await limited.submit_many(await limited.account(), 2, cost=100)
    assert await refused(admission, await limited.account()) is not None
    await limited.slots(gpu=4)
    assert await refused(admission, await limited.account()) is None
    await limited.slots(gpu=0)
    assert await refused(admission, await limited.account()) is not None, "a pool at zero counts as one replica"


async def test_a_flood_of_one_account_is_refused_to_it_alone(limited: World, admission: Admission) -> None:
    flooder, other = await limited.account(concurrency=2), await limited.account()
    await limited.submit_many(flooder, 13, cost=10)
    error = await refused(admission, flooder)
    assert error is not None
    assert error.headers["Retry-After"] == "5", "two in line and eleven parked, ten seconds each, on two slots"
    assert await refused(admission, other) is None


async def test_each_pool_of_the_chain_must_have_room(limited: World, admission: Admission) -> None:
    account = await limited.account()
    await limited.submit_many(account, 2, cost=1000, pool="cpu")
    assert await refused(admission, account, "cpu") is None, "no limit"
    await limited.submit_many(account, 2, cost=100)
    assert await refused(admission, account, "cpu", "gpu") is not None
    assert await refused(admission, account, "cpu") is None


async def test_a_burst_within_one_reading_is_bounded_too(limited: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "FRESH_SECONDS", 1000.0)
    admission, account = Admission(Queues(limited.database)), await limited.account()
    let_in = 0
    while await refused(admission, account) is None:
        let_in += 1
    assert let_in == 2 * LIMIT + 1
    assert await refused(admission, await limited.account()) is None
    queues = await limited.database.fetch_value("SELECT count(*) FROM queue")
    assert queues == 0, "nothing was asked of the database meanwhile"


async def test_a_refusal_is_counted_by_pool_and_waits_an_hour_at_most(limited: World, admission: Admission) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("killatamata_admission_refused_total", {"pool": "gpu"}) or 0.0

    account, before = await limited.account(), counted()
    await limited.submit_many(account, 1, cost=1e6)
    error = await refused(admission, account)
    assert error is not None
    assert (error.headers["Retry-After"], counted() - before) == ("3600", 1.0)


async def test_a_fleet_without_the_limit_takes_it_back(limited: World, admission: Admission) -> None:
    account = await limited.account()
    await limited.submit_many(account, 1, cost=1000)
    assert await refused(admission, account) is not None
    await pools.declare(limited.database, frozenset({"cpu", "gpu"}))
    assert await refused(admission, account) is None


async def test_what_is_held_back_waits_before_nobody(limited: World, admission: Admission) -> None:
    account = await limited.account()
    (job,) = await limited.submit_many(account, 1, cost=1000)
    await intervene(limited.database, job, "quarantine", Operator("ada@ops"))
    assert await refused(admission, account) is None
