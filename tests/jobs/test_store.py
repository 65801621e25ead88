"""Submit, read and cancel, over a real ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from billing.wallets import Balance
from core.errors import (
    ApiError,
    IdempotencyConflict,
    InsufficientBalance,
    NotFound,
    QueueFull,
    RateLimited,
    TaskUnavailable,
)
from jobs import pools
from jobs.leases import Outcome
from jobs.models import Accepted, Job
from jobs.snapshot import Queues
from jobs.store import NEVER
from tests.jobs.world import DONE, FAILURE, PRICE, World, ids, submission

NOTHING_LEFT = ("job", "queue", "idempotency", "hold", "event")


async def test_a_submit_holds_the_price_and_queues_the_job(world: World) -> None:
    account = await world.account(credit=1_000)
    accepted = await world.jobs.submit(submission(account, idempotency_key="k"))
    job, replayed = accepted.job, accepted.replayed
    assert not replayed
    assert (job.state, job.hold_state, job.amount_micros, accepted.balance_after) == ("queued", "held", PRICE, 900)
    assert (job.sequence, job.progress, job.attempts, job.stages) == (1, 0.0, [], [])
    assert job.effective_input == {"prompt": "a tree", "seed": 7}
    assert await world.balance(account) == Balance(900, 100, 0)
    assert await world.events(job.id) == [("state", {"status": "queued", "requestId": "req_1"})]


async def test_too_little_money_leaves_nothing_behind(world: World) -> None:
    account = await world.account(credit=PRICE + PRICE - 1)
    await world.submit(account)
    before = await world.counts(*NOTHING_LEFT)
    flow = await world.database.fetch_row("SELECT * FROM flow")
    with pytest.raises(InsufficientBalance) as caught:
        await world.submit(account, idempotency_key="k")
    assert caught.value.details == {"neededUsd": "0.000100", "availableUsd": "0.000099"}
    assert await world.counts(*NOTHING_LEFT) == before
    assert await world.database.fetch_row("SELECT * FROM flow") == flow
    await world.submit(account, idempotency_key="k", price=99, fingerprint=b"o" * 32)


async def test_balance_for_one_of_two_at_once(world: World) -> None:
    account = await world.account(credit=PRICE)
    ends = await asyncio.gather(world.submit(account), world.submit(account), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["InsufficientBalance", "Job"]
    assert await world.balance(account) == Balance(0, PRICE, 0)


async def test_50_submits_at_once_with_one_key_are_one_job(world: World) -> None:
    account = await world.account()
    ends = await asyncio.gather(
        *(world.jobs.submit(submission(account, idempotency_key="k")) for _ in range(50)), return_exceptions=True
    )
    done = [end for end in ends if not isinstance(end, BaseException)]
    assert len(done) == 50
    assert len({accepted.job.id for accepted in done}) == 1
    assert sum(accepted.replayed for accepted in done) == 49
    assert await world.counts("job", "hold", "idempotency") == [1, 1, 1]


async def test_a_replay_is_the_first_job_whatever_the_price_is_now(world: World) -> None:
    account = await world.account(credit=PRICE)
    first = await world.submit(account, idempotency_key="k")
    again = await world.jobs.submit(submission(account, idempotency_key="k", price=7, pools=("gone",)))
    assert again == Accepted(first, 0, replayed=True)
    await world.succeed(await world.claim_one())
    ended = await world.jobs.submit(submission(account, idempotency_key="k"))
    assert ended == again


async def test_another_body_under_the_same_key_is_a_conflict(world: World) -> None:
    account = await world.account()
    await world.submit(account, idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        await world.submit(account, idempotency_key="k", fingerprint=b"o" * 32)
    other = await world.account()
    assert not (await world.jobs.submit(submission(other, idempotency_key="k", fingerprint=b"o" * 32))).replayed


async def test_replayed_finds_the_job_of_an_earlier_submit(world: World) -> None:
    account, other = await world.account(), await world.account()
    body = submission(account, idempotency_key="k")
    assert await world.jobs.replayed(account, "k", body.fingerprint) is None
    accepted = await world.jobs.submit(body)
    assert await world.jobs.replayed(account, "k", body.fingerprint) == replace(accepted, replayed=True)
    assert await world.jobs.replayed(account, "K", body.fingerprint) is None
    assert await world.jobs.replayed(other, "k", body.fingerprint) is None
    with pytest.raises(IdempotencyConflict):
        await world.jobs.replayed(account, "k", b"o" * 32)


async def test_a_key_is_forgotten_after_24_hours(world: World) -> None:
    account = await world.account()
    first = await world.submit(account, idempotency_key="k")
    await world.database.execute("UPDATE idempotency SET created_at = now() - interval '24 hours 1 second'")
    assert await world.jobs.replayed(account, "k", b"f" * 32) is None
    assert await world.jobs.replayed(account, "k", b"o" * 32) is None
    second = await world.jobs.submit(submission(account, idempotency_key="k"))
    assert not second.replayed
    assert second.job.id != first.id
    assert await world.jobs.replayed(account, "k", b"f" * 32) == replace(second, replayed=True)


async def test_a_refused_submit_is_no_replay(world: World) -> None:
    account = await world.account(credit=1)
    with pytest.raises(InsufficientBalance):
        await world.submit(account, idempotency_key="k")
    assert await world.jobs.replayed(account, "k", b"f" * 32) is None


async def test_the_queue_has_an_end_that_a_finished_job_moves(world: World) -> None:
    account = await world.account(concurrency=2, queue_limit=3)
    for pool in ("gpu", "cpu", "gpu"):
        await world.submit(account, pools=(pool,))
    with pytest.raises(QueueFull, match="3 jobs") as caught:
        await world.submit(account, idempotency_key="k")
    assert caught.value.headers["Retry-After"] == "30"
    assert await world.balance(account) == Balance(1_000_000 - 3 * PRICE, 3 * PRICE, 0)
    await world.serve(1)
    await world.submit(account, idempotency_key="k")


@pytest.mark.parametrize("needed", [("gone",), ("gpu", "gone"), ()])
async def test_a_pool_that_the_fleet_has_not_is_refused(world: World, needed: tuple[str, ...]) -> None:
    account = await world.account(credit=PRICE)
    with pytest.raises(TaskUnavailable, match=r"image\.generate"):
        await world.submit(account, pools=needed, idempotency_key="k")
    assert await world.counts(*NOTHING_LEFT) == [0, 0, 0, 0, 0]
    assert await world.balance(account) == Balance(PRICE, 0, 0)


async def test_a_pool_that_left_the_fleet_is_refused_though_it_was_used(world: World) -> None:
    account = await world.account()
    waiting = await world.submit(account, pools=("cpu",))
    await pools.declare(world.database, frozenset({"gpu"}))
    with pytest.raises(TaskUnavailable):
        await world.submit(account, pools=("gpu", "cpu"))
    assert await pools.names(world.database) == ["gpu"]
    await pools.declare(world.database, frozenset({"gpu", "cpu"}))
    assert (await world.claim_one("cpu")).job_id == waiting.id


@pytest.mark.parametrize(
    "changes",
    [
        {"price": 0},
        {"price": -1},
        {"price": 2**63},
        {"cost_seconds": 0.0},
        {"cost_seconds": float("nan")},
        {"cost_seconds": float("inf")},
        {"effective_input": {"prompt": "\0"}},
        {"effective_input": {"prompt": "\ud800"}},
        {"effective_input": {"size": float("nan")}},
        {"account_id": uuid4()},
    ],
    ids=str,
)
async def test_nonsense_from_above_leaves_nothing_behind(world: World, changes: dict[str, Any]) -> None:
    account = await world.account()
    body = submission(account, idempotency_key="k", **{k: v for k, v in changes.items() if k != "account_id"})
    with pytest.raises(asyncpg.PostgresError):
        await world.jobs.submit(replace(body, account_id=changes.get("account_id", account)))
    assert await world.counts(*NOTHING_LEFT) == [0, 0, 0, 0, 0]
    assert await world.database.fetch_value("SELECT max(clock) FROM pool") == 0


async def test_a_job_is_only_its_accounts(world: World) -> None:
    account, other = await world.account(), await world.account()
    job = await world.submit(account)
    for missing in ((other, job.id), (account, uuid4())):
        with pytest.raises(NotFound):
            await world.jobs.get(*missing)
        with pytest.raises(NotFound):
            await world.jobs.cancel(*missing)
    assert (await world.reread(job)).state == "queued"


async def test_a_job_is_read_again_only_when_it_or_its_hold_was_written(world: World) -> None:
    job = await world.submit(await world.account())
    version, read = await world.jobs.changed(job.account_id, job.id)
    assert read == await world.reread(job)
    assert await world.jobs.changed(job.account_id, job.id, version) == (version, None)
    with pytest.raises(NotFound):
        await world.jobs.changed(uuid4(), job.id, version)
    for written in ("UPDATE job SET progress = 0.5", "UPDATE hold SET state = state"):
        await world.database.execute(f"{written} WHERE id = $1", job.id)
        earlier, (version, read) = version, await world.jobs.changed(job.account_id, job.id, version)
        assert version != earlier
        assert read is not None
        assert read.progress == 0.5


async def test_readers_of_several_versions_at_once_each_get_what_is_new_to_them(world: World) -> None:
    job = await world.submit(await world.account())
    version, read = await world.jobs.changed(job.account_id, job.id)
    found = await asyncio.gather(
        *(world.jobs.changed(job.account_id, job.id, each) for each in (version, NEVER, version, (version[0], 0)))
    )
    assert found == [(version, None), (version, read), (version, None), (version, read)]


async def places(world: World) -> Mapping[UUID, int]:
    """The jobs' places in line, freshly read."""
    return (await Queues(world.database).snapshot()).positions


async def test_queue_positions_count_what_is_served_before(world: World) -> None:
    account = await world.account(concurrency=3)
    jobs = [await world.submit(account) for _ in range(4)]
    assert [(await places(world)).get(job.id) for job in jobs] == [1, 2, 3, None]
    lease = await world.claim_one()
    assert [(await places(world)).get(job.id) for job in jobs] == [None, 1, 2, None]
    await world.leases.hand_back(lease, "handed_back", counts=False)
    assert [(await places(world)).get(job.id) for job in jobs] == [1, 2, 3, None]
    other = await world.submit(await world.account())
    assert (await places(world)).get(other.id) == 2


async def cancel(world: World, job_id: UUID, account: UUID) -> tuple[str, str, bool]:
    job = await world.jobs.cancel(account, job_id)
    return job.state, job.hold_state, job.cancel_requested_at is not None


async def test_cancel_while_queued_ends_at_once(world: World) -> None:
    account = await world.account()
    job = await world.submit(account)
    assert await cancel(world, job.id, account) == ("cancelled", "released", True)
    assert await world.claim() == []
    assert await world.balance(account) == Balance(1_000_000, 0, 0)
    assert [kind for kind, _ in await world.events(job.id)] == ["state", "cancel_requested", "state"]
    first = await world.reread(job)
    assert await cancel(world, job.id, account) == ("cancelled", "released", True)
    assert await world.reread(job) == first


async def test_cancel_while_parked_leaves_the_ready_ones_alone(world: World) -> None:
    account = await world.account(concurrency=1)
    ready, parked, later = [await world.submit(account) for _ in range(3)]
    assert await cancel(world, parked.id, account) == ("cancelled", "released", True)
    assert await world.queue(account) == ["ready", "parked"]
    assert ids(await world.serve(9)) == ids([ready, later])


async def test_cancel_while_running_asks_and_the_worker_ends_it(world: World) -> None:
    account = await world.account()
    await world.submit(account)
    lease = await world.claim_one()
    listener = await world.database.listen("job_stop")
    assert await cancel(world, lease.job_id, account) == ("running", "held", True)
    assert await asyncio.wait_for(anext(listener), 2) == ("job_stop", str(lease.job_id))
    assert await world.leases.stop_requested(world.session) == [(lease.job_id, lease.fence)]
    assert await cancel(world, lease.job_id, account) == ("running", "held", True)
    assert await world.leases.settle(lease, "cancelled", replace(DONE, stopped_at_step=3)) == "cancelled"
    job = await world.reread(lease)
    assert (job.state, job.hold_state, job.stopped_at_step, job.outputs) == ("cancelled", "released", 3, [])
    assert await world.leases.stop_requested(world.session) == []
    await listener.close()


@pytest.mark.parametrize("state", ["succeeded", "failed"])
async def test_whatever_comes_after_a_cancel_request_is_a_cancel(world: World, state: Any) -> None:
    account = await world.account()
    await world.submit(account)
    lease = await world.claim_one()
    await world.jobs.cancel(account, lease.job_id)
    ended = await world.leases.settle(lease, state, DONE, FAILURE if state == "failed" else None)
    job = await world.reread(lease)
    assert (ended, job.state, job.hold_state) == ("cancelled", "cancelled", "released")
    assert (job.outputs, job.failure, job.upstream) == ([], None, None)


@pytest.mark.parametrize("end", ["succeeded", "failed"])
async def test_cancel_after_the_end_changes_nothing(world: World, end: Any) -> None:
    account = await world.account()
    await world.submit(account)
    lease = await world.claim_one()
    await world.leases.settle(lease, end, DONE, FAILURE if end == "failed" else None)
    before = await world.jobs.get(account, lease.job_id)
    assert await world.jobs.cancel(account, lease.job_id) == before
    assert before.cancel_requested_at is None


async def test_cancels_and_a_success_at_once_agree_on_one_end(world: World) -> None:
    account = await world.account()
    for _ in range(10):
        await world.submit(account)
        lease = await world.claim_one()
        *_, ended = await asyncio.gather(
            *(world.jobs.cancel(account, lease.job_id) for _ in range(3)), world.succeed(lease)
        )
        job = await world.reread(lease)
        assert job.state == ended
        assert job.hold_state == ("captured" if ended == "succeeded" else "released")


async def test_every_error_of_a_submit_is_one_that_callers_know(world: World) -> None:
    account = await world.account(credit=0)
    for changes in ({}, {"pools": ("gone",)}):
        with pytest.raises(ApiError):
            await world.submit(account, **changes)


async def test_only_cancels_of_running_jobs_beyond_the_limit_pause_submits(world: World) -> None:
    account = await world.account()
    for _ in range(3):
        waiting = await world.submit(account)
        await world.jobs.cancel(account, waiting.id, most_running=1)
    for _ in range(2):
        await world.submit(account)
        lease = await world.claim_one()
        await world.jobs.cancel(account, lease.job_id, "req_c", most_running=1)
        await world.jobs.cancel(account, lease.job_id, "req_c", most_running=1)
        await world.leases.settle(lease, "cancelled", Outcome())
    with pytest.raises(RateLimited) as caught:
        await world.submit(account)
    assert 590 <= int(caught.value.headers["Retry-After"]) <= 600
    assert ("cancel_requested", {"requestId": "req_c"}) in await world.events(lease.job_id)
    assert (await world.balance(account)).held == 0
    await world.database.execute("UPDATE account SET paused_until = clock_timestamp()")
    await world.submit(account)


async def test_a_job_is_cancelled_when_its_own_deadline_is_over(world: World) -> None:
    account = await world.account()
    waiting = await world.submit(account, cancel_after_seconds=0)
    kept = await world.submit(account, cancel_after_seconds=60)
    assert await world.leases.cancel_due(most_running=20) == 1
    assert [(await world.reread(job)).state for job in (waiting, kept)] == ["cancelled", "queued"]
    lease = await world.claim_one()
    await world.database.execute("UPDATE job SET cancel_by = clock_timestamp() WHERE id = $1", lease.job_id)
    assert await world.leases.cancel_due(most_running=20) == 1
    assert await world.leases.cancel_due(most_running=20) == 0
    assert await world.leases.stop_requested(world.session) == [(lease.job_id, lease.fence)]
    counted = "SELECT array_agg(id) FROM job WHERE running_cancel_at IS NOT NULL"
    assert await world.database.fetch_value(counted) == [lease.job_id]
    assert await world.leases.settle(lease, "succeeded", DONE) == "cancelled"


async def test_deadlines_of_running_jobs_beyond_the_limit_pause_submits(world: World) -> None:
    account = await world.account()
    for _ in range(3):
        await world.submit(account, cancel_after_seconds=0)
        assert await world.leases.cancel_due(most_running=1) == 1
    for _ in range(2):
        await world.submit(account)
        lease = await world.claim_one()
        await world.database.execute("UPDATE job SET cancel_by = clock_timestamp() WHERE id = $1", lease.job_id)
        await world.leases.sweep(most_running=1)
        await world.leases.settle(lease, "cancelled", Outcome())
    with pytest.raises(RateLimited) as caught:
        await world.submit(account)
    assert 590 <= int(caught.value.headers["Retry-After"]) <= 600
    assert (await world.balance(account)).held == 0


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
async def test_the_end_of_a_job_with_a_webhook_leaves_a_delivery(world: World, end: Any) -> None:
    account = await world.account()
    await world.submit(account, webhook_url="https://example.com/hook")
    lease = await world.claim_one()
    if end == "cancelled":
        await world.jobs.cancel(account, lease.job_id)
    await world.leases.settle(lease, end, DONE, FAILURE if end == "failed" else None)
    (row,) = await world.database.fetch("SELECT job_id, type, url, state FROM delivery")
    assert tuple(row) == (lease.job_id, f"job.{end}", "https://example.com/hook", "pending")


async def test_pages_go_from_the_newest_to_the_oldest(world: World) -> None:
    account = await world.account()
    made = [await world.submit(account) for _ in range(5)]
    await world.submit(await world.account())

    async def page(before: UUID | None = None, **asked: Any) -> list[UUID]:
        wanted: Any = {"limit": 2, "state": None, "task": None} | asked
        return [job.id for job in await world.jobs.page(account, before=before, **wanted)]

    newest_first = sorted((job.id for job in made), reverse=True)
    assert await page() == newest_first[:2]
    assert await page(newest_first[1]) == newest_first[2:4]
    assert await page(newest_first[3]) == newest_first[4:]
    assert await page(newest_first[4]) == []
    lease = await world.claim_one()
    assert await page(state="running") == [lease.job_id]
    assert await page(state="queued", limit=9) == newest_first[:4]
    assert await page(task="image.generate") == newest_first[:2]
    assert await page(task="video.generate") == []


async def test_a_job_between_its_segments_is_listed_as_running(world: World) -> None:
    account = await world.account()
    job = await world.submit(account, pools=("gpu", "cpu"))
    await world.leases.segment_end(await world.claim_one(), {})
    wanted: Any = {"limit": 9, "before": None, "task": None}
    assert [each.id for each in await world.jobs.page(account, state="running", **wanted)] == [job.id]
    assert await world.jobs.page(account, state="queued", **wanted) == []


async def test_a_job_names_the_inputs_it_was_given(world: World) -> None:
    account = await world.account()
    await world.database.execute("INSERT INTO input (sha256) VALUES ($1)", b"i" * 32)
    job = await world.submit(account, inputs=(b"i" * 32, b"i" * 32))
    assert await world.database.fetch_value("SELECT array_agg(job_id) FROM job_input") == [job.id]
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await world.submit(account, inputs=(b"j" * 32,))


async def test_readers_at_once_get_their_own_jobs_only(world: World) -> None:
    owner, other = await world.account(), await world.account()
    mine, theirs = await world.submit(owner), await world.submit(other)
    wanted = [(owner, mine.id), (other, theirs.id), (other, mine.id), (owner, theirs.id), (owner, uuid4())] * 4
    got = await asyncio.gather(*(world.jobs.get(*each) for each in wanted), return_exceptions=True)
    assert [each.id if isinstance(each, Job) else type(each) for each in got] == [
        *(mine.id, theirs.id, NotFound, NotFound, NotFound)
    ] * 4
