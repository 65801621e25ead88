"""A cancel at every point of a job's life, once and twice: it costs nothing, leaves nothing, and ends the job once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from cluster import dispatcher, fleet, work
from cluster.steps import Steps
from core.database import Database
from deployments.messages import Call, Halted, Message, Progress
from jobs.leases import Leases, Outcome
from jobs.models import Job
from jobs.store import Jobs
from models.ltx_video import VideoRequest
from models.rife import InterpolationRequest
from tasks.registry import TASKS
from tests.cluster.dispatching import INPUT, POOL, Dispatching, dispatching, ended, painting
from tests.cluster.doubles import RELEASED, STARTED, Answer, silence
from tests.cluster.test_video_generate import filming
from tests.leasing import CREDIT, PRICE, job_of, money, outcomes, submitted, until_true

__all__ = ["dispatching"]

OTHER_POOL = "second-pool"
_REQUESTS = {"ltx-video": VideoRequest, "rife": InterpolationRequest}


def lingering(*arguments: Any) -> Any:
    """A small step that would take a minute."""
    time.sleep(60)


class Point:
    """Where a job is when its cancel comes: `reached` is set there."""

    def __init__(self, dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dispatching, self.database, self.patch = dispatching, database, monkeypatch
        self.reached = asyncio.Event()

    def before_claim(self) -> None:
        self.reached.set()

    def waiting_for_a_replica(self) -> None:
        async def answer(call: Call) -> AsyncIterator[Message]:
            self.reached.set()
            async for message in silence(call):
                yield message

        self.dispatching.start(answer)

    async def _halting(self, call: Call) -> AsyncIterator[Message]:
        """A replica that is at work until its permit is lost."""
        yield STARTED
        yield Progress(1, 3)
        self.reached.set()
        while await self.database.fetch_value("SELECT permitted($1, $2)", call.job_id, call.fence):
            await asyncio.sleep(0.02)
        yield Halted(2, 0.7, RELEASED)

    def in_the_model_step(self) -> None:
        self.dispatching.start(self._halting)

    def _lingers(self, name: str, answer: Answer = painting) -> None:
        """The small step of that name never ends by itself."""
        real, slow = work.remote, getattr(work, name)

        def remote(function: Callable[..., Any], *arguments: Any, returns: int = 1) -> Any:
            if function is not slow:
                return real(function, *arguments, returns=returns)
            self.reached.set()
            return real(lingering, *arguments, returns=returns)

        self.patch.setattr(work, "remote", remote)
        self.dispatching.start(answer)

    def in_fetch(self) -> None:
        self._lingers("picture")

    def in_encode(self) -> None:
        self._lingers("encode_picture")

    def in_publish(self) -> None:
        self._lingers("publish")

    def _films(self, pool: str) -> None:
        """Two segments of a film: that of `pool` is under way until its permit is lost; the other's engine is quick."""

        async def slots() -> dict[str, int]:
            return {"ltx-video": 1, "rife": 1}

        async def answer(call: Call) -> AsyncIterator[Message]:
            messages = self._halting(call) if isinstance(call.request, _REQUESTS[pool]) else filming(call)
            async for message in messages:
                yield message

        self.patch.setattr(fleet, "slots", slots)
        self.dispatching.start(answer)

    def in_ltx_video(self) -> None:
        self._films("ltx-video")

    def in_rife(self) -> None:
        self._films("rife")

    def in_the_encoding_of_a_film(self) -> None:
        self._lingers("film", filming)

    def between_segments(self) -> None:
        async def first(steps: Steps) -> dict[str, Any]:
            return {"made": "half"}

        self.patch.setattr(dispatcher, "CHAINS", {"image.generate": (first, first)})
        segment_end = Leases.segment_end

        async def observed(leases: Leases, *arguments: Any) -> Any:
            answer = await segment_end(leases, *arguments)
            self.reached.set()
            return answer

        self.patch.setattr(Leases, "segment_end", observed)
        self.dispatching.start(painting)

    def just_before_the_settlement(self) -> None:
        settle = Leases.settle

        async def late(leases: Leases, *arguments: Any) -> Any:
            self.reached.set()
            await until_true(
                partial(self.database.fetch_value, "SELECT count(*) FROM event WHERE type = 'cancel_requested'"),
                "a cancel",
            )
            return await settle(leases, *arguments)

        self.patch.setattr(Leases, "settle", late)
        self.dispatching.start(painting)


POINTS = [
    Point.before_claim,
    Point.waiting_for_a_replica,
    Point.in_fetch,
    Point.in_the_model_step,
    Point.between_segments,
    Point.in_encode,
    Point.in_publish,
    Point.just_before_the_settlement,
]
FILMS = {Point.in_ltx_video: 50, Point.in_rife: 50, Point.in_the_encoding_of_a_film: 0}
"""Points of a job of video.generate, with the rate that it asks for."""


async def film(database: Database, rate: int) -> Job:
    """A job of video.generate, in line."""
    given = {"prompt": "a fox runs", "seed": 7, "width": 320, "height": 256, "durationFrames": 17, "sampledFps": 25}
    task = TASKS["video.generate"]
    effective = task.prepare({**given, "interpolationFps": rate}).effective_input
    first, second = task.pools(effective)
    await database.execute("INSERT INTO pool (name, slots) VALUES ($1, 5)", second)
    job = await submitted(database, first, effective, task="video.generate")
    await database.execute("UPDATE job SET pools = $2 WHERE id = $1", job.id, [first, second])
    return job


async def assert_cancelled_at_no_cost(database: Database, job: Job) -> Job:
    found = await ended(database, job)
    assert (found.state, found.outputs, found.failure, found.hold_state) == ("cancelled", [], None, "released")
    assert await money(database, found) == (CREDIT, 0)
    states = await database.fetch(
        "SELECT type, data ->> 'status' AS status FROM event WHERE job_id = $1 AND type IN ('state', 'cancel_requested')"
        " ORDER BY seq",
        job.id,
    )
    named = [row["status"] or row["type"] for row in states]
    assert (named.count("cancelled"), named.count("cancel_requested"), named[-1]) == (1, 1, "cancelled")
    assert all(attempt.ended_at for attempt in found.attempts)
    assert all(stage.ended_at for stage in found.stages)
    assert await database.fetch_value("SELECT count(*) FROM queue") == 0
    return found


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("place", [*POINTS, *FILMS], ids=lambda each: each.__name__)
async def test_a_cancel_ends_the_job_once_at_no_cost(
    dispatching: Dispatching,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    place: Callable[[Point], None],
    twice: bool,
) -> None:
    point = Point(dispatching, database, monkeypatch)
    if place in FILMS:
        job = await film(database, FILMS[place])
    else:
        given = {**INPUT, "referenceImages": ["http://127.0.0.1:9/a.png"] * (place is Point.in_fetch)}
        job = await submitted(database, POOL, given)
    if place is Point.between_segments:
        await database.execute("INSERT INTO pool (name, slots, paused) VALUES ($1, 5, true)", OTHER_POOL)
        await database.execute("UPDATE job SET pools = $2 WHERE id = $1", job.id, [POOL, OTHER_POOL])
    place(point)
    async with asyncio.timeout(60):
        await point.reached.wait()
    cancels = [Jobs(database).cancel(job.account_id, job.id) for _ in range(1 + twice)]
    await asyncio.wait_for(asyncio.gather(*cancels), 10)
    found = await asyncio.wait_for(assert_cancelled_at_no_cost(database, job), 30)
    if place in (Point.in_the_model_step, Point.in_ltx_video, Point.in_rife):
        assert (found.stopped_at_step, found.gpu_released_at) == (2, RELEASED)
    again = await Jobs(database).cancel(job.account_id, job.id)
    assert (again.state, again.sequence) == ("cancelled", found.sequence)


async def test_a_cancel_after_the_end_changes_nothing(dispatching: Dispatching, database: Database) -> None:
    dispatching.start(painting)
    job = await ended(database, await submitted(database, POOL, INPUT))
    late = await asyncio.gather(*(Jobs(database).cancel(job.account_id, job.id) for _ in range(3)))
    assert {(each.state, each.hold_state, each.sequence) for each in late} == {("succeeded", "captured", job.sequence)}
    assert await money(database, job) == (CREDIT - PRICE, 0)


async def test_a_cancel_during_the_settlement_is_before_it_or_after_it(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, seen = Leases.settle, set[str]()

    async def contended(leases: Leases, lease: Any, *arguments: Any) -> Any:
        both: list[Awaitable[Any]] = [
            settle(leases, lease, *arguments),
            Jobs(database).cancel(lease.account_id, lease.job_id),
        ]
        if len(seen) % 2:
            both.reverse()
        answers = await asyncio.gather(*both)
        return next(answer for answer in answers if isinstance(answer, str))

    monkeypatch.setattr(Leases, "settle", contended)

    async def chain(steps: Steps) -> Outcome:
        return Outcome(outputs=({"key": "a", "role": "primary"},))

    monkeypatch.setattr(dispatcher, "CHAINS", {"image.generate": (chain,)})
    dispatching.start(painting)
    for _ in range(12):
        job = await ended(database, await submitted(database, POOL, INPUT))
        seen.add(job.state)
        paid = job.state == "succeeded"
        assert job.state in ("succeeded", "cancelled")
        assert (await money(database, job), bool(job.outputs)) == ((CREDIT - PRICE * paid, 0), paid)
        assert outcomes(job) == [job.state]
        assert (await job_of(database, job)).sequence == job.sequence
