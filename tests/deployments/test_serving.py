"""The replica behind a real Serve, with the database as the only judge of who may go on."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve
from ray.exceptions import RayActorError

from core.clock import now
from core.database import Database
from deployments.messages import Call, End, Faulted, Finished, Halted, Message, Progress, Started
from deployments.replica import ReplicaArgs
from jobs.wakeup import STOP_CHANNEL
from tests.deployments.recording import STEP_LIMIT_SECONDS, Ask, Journal, RecordingReplica
from tests.leasing import cancelled, expired, leased, new_pool, session, until_true

APPLICATION = "recording"
LAG = 1.0
"""Seconds between an engine's last step and its return: time enough for another call to slip in."""


@pytest.fixture(scope="module")
def journal(ray_cluster: None) -> Iterator[Journal]:
    """What the engine of the one replica writes."""
    with tempfile.TemporaryDirectory() as folder:
        written = Journal(Path(folder))
        args = ReplicaArgs(pool=APPLICATION, engine="recording", weights=f"dir:{folder}", stand_in=True)
        deployment: Any = serve.deployment(
            RecordingReplica,
            name="Replica",
            max_ongoing_requests=1,
            graceful_shutdown_timeout_s=1,
            health_check_period_s=1,
            health_check_timeout_s=5,
            ray_actor_options={"num_cpus": 0.1},
        )
        serve.run(deployment.bind(args), name=APPLICATION, route_prefix=None)
        yield written
        serve.delete(APPLICATION)


@pytest.fixture
async def leasing(cluster_database: Database) -> AsyncIterator[int]:
    async with session(cluster_database) as number:
        yield number


class Said:
    """One call, its messages collected as they come."""

    def __init__(self, call: Call) -> None:
        handle: Any = serve.get_app_handle(APPLICATION)
        self.stream: Any = handle.options(method_name="run", stream=True).remote(call)
        self.messages: list[Message] = []
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> Message:
        async for message in self.stream:
            self.messages.append(message)
        return self.messages[-1]

    async def end(self) -> End:
        last = await asyncio.wait_for(self.task, 30)
        assert isinstance(last, End)
        return last

    async def drop(self) -> None:
        """The caller turns away."""
        self.stream.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def until(self, kind: type[Any]) -> Any:
        return await until_true(
            lambda: next((message for message in self.messages if isinstance(message, kind)), None), kind.__name__
        )

    @property
    def replica(self) -> str:
        (started,) = [message for message in self.messages if isinstance(message, Started)]
        return started.replica


async def asked(database: Database, number: int, ask: Ask) -> tuple[Any, Said]:
    lease = await leased(database, number, new_pool())
    return lease, Said(Call(lease.job_id, lease.fence, ask))


async def result_of(end: End) -> Any:
    assert isinstance(end, Finished)
    made = await end.result
    return made.made


async def test_a_call_tells_its_progress_in_order_and_ends_with_a_result(
    journal: Journal, cluster_database: Database, leasing: int
) -> None:
    _, said = await asked(cluster_database, leasing, Ask("plain", steps=5))
    end = await said.end()
    started, *progress, finished = said.messages
    assert isinstance(started, Started)
    assert (started.engine, started.stand_in, started.stop_limit_s) == ("recording", True, STEP_LIMIT_SECONDS)
    assert started.weights_digest.startswith("sha256:")
    assert progress == [Progress(step, 5) for step in range(1, 6)]
    assert finished is end
    assert await result_of(end) == "plain"
    assert end.gpu_seconds >= 0.1


async def test_objects_take_the_place_of_their_references(
    journal: Journal, cluster_database: Database, leasing: int
) -> None:
    steps: Any = ray.put(4)
    _, said = await asked(cluster_database, leasing, Ask("by reference", steps=steps))
    assert await result_of(await said.end()) == "by reference"
    assert said.messages[-2] == Progress(4, 4)


async def test_a_cancelled_job_stops_at_its_next_step_and_the_next_call_waits_until_it_has_returned(
    journal: Journal, cluster_database: Database, leasing: int
) -> None:
    lease, first = await asked(cluster_database, leasing, Ask("stopped", steps=1000, lag_s=LAG))
    await first.until(Progress)
    _, second = await asked(cluster_database, leasing, Ask("after-stopped"))
    await cancelled(cluster_database, lease)
    end = await first.end()
    assert isinstance(end, Halted)
    assert 0 < end.step < 1000
    assert end.gpu_seconds >= LAG
    assert await result_of(await second.end()) == "after-stopped"
    assert second.replica == first.replica
    assert journal.at("after-stopped", "enter") > journal.at("stopped", "leave")
    assert len(journal.events("stopped", "step")) == end.step


async def test_the_engine_is_free_within_a_step_and_a_quarter_of_a_second_of_the_news_of_a_cancel(
    journal: Journal, cluster_database: Database, leasing: int
) -> None:
    """Half of ten times; what a dispatcher is told of a cancel, this test is told at the same time."""
    step_s, spans = 0.1, []
    listener = await cluster_database.listen(STOP_CHANNEL)
    try:
        for number in range(10):
            lease, said = await asked(cluster_database, leasing, Ask(f"timed {number}", steps=1000, step_s=step_s))
            await said.until(Progress)
            # At any moment within a step.
            await asyncio.sleep(step_s * number / 10)
            cancelling = asyncio.create_task(cancelled(cluster_database, lease))
            async with asyncio.timeout(10):
                while await anext(listener) != (STOP_CHANNEL, str(lease.job_id)):
                    pass
            heard_at = now()
            await cancelling
            end = await said.end()
            assert isinstance(end, Halted)
            spans.append((end.gpu_released_at - heard_at).total_seconds())
    finally:
        await listener.close()
    print("seconds from the news to the release:", [round(span, 3) for span in sorted(spans)])
    assert statistics.median(spans) <= step_s + 0.25, sorted(spans)


async def test_serve_frees_the_slot_of_a_cancelled_request_at_once_and_the_lock_keeps_the_engine(
    journal: Journal, cluster_database: Database, leasing: int
) -> None:
    _, first = await asked(cluster_database, leasing, Ask("dropped", steps=1000, lag_s=LAG))
    await first.until(Progress)
    _, second = await asked(cluster_database, leasing, Ask("after-dropped"))
    await first.drop()
    assert await result_of(await second.end()) == "after-dropped"
    # The proof that there was something to keep apart: the second call was in the replica before the first had left.
    assert journal.at("after-dropped", "arrive") < journal.at("dropped", "leave")
    assert journal.at("after-dropped", "enter") > journal.at("dropped", "leave")
    assert len(journal.events("dropped", "step")) < 1000


async def test_a_request_cancelled_while_it_waits_never_reaches_the_engine(
    journal: Journal, cluster_database: Database, leasing: int
) -> None:
    _, first = await asked(cluster_database, leasing, Ask("long", steps=60))
    await first.until(Progress)
    _, second = await asked(cluster_database, leasing, Ask("never"))
    await asyncio.sleep(0.2)
    await second.drop()
    assert isinstance(await first.end(), Finished)
    _, third = await asked(cluster_database, leasing, Ask("third"))
    assert isinstance(await third.end(), Finished)
    assert journal.events("never", "enter") == []


async def test_a_call_outlives_its_killed_caller_only_until_the_session_has_expired(
    journal: Journal, cluster_database: Database, leasing: int
) -> None:

    class Caller:
        async def say(self, call: Call) -> None:
            handle: Any = serve.get_app_handle(APPLICATION)
            async for _ in handle.options(method_name="run", stream=True).remote(call):
                pass

    async with session(cluster_database) as dying:
        lease = await leased(cluster_database, dying, new_pool())
        remote: Any = ray.remote(num_cpus=0.1)(Caller)
        caller = remote.remote()
        caller.say.remote(Call(lease.job_id, lease.fence, Ask("orphan", steps=1000, step_s=0.05, lag_s=LAG)))
        await until_true(lambda: len(journal.events("orphan", "step")) > 2, "the orphan at work")
        ray.kill(caller)
        seen = len(journal.events("orphan", "step"))
        await asyncio.sleep(0.5)
        assert len(journal.events("orphan", "step")) > seen, "the replica goes on although its caller is dead"
    _, heir = await asked(cluster_database, leasing, Ask("heir"))
    await asyncio.sleep(0.5)
    assert journal.events("heir", "enter") == []
    await expired(cluster_database, dying)
    assert isinstance(await heir.end(), Finished)
    assert journal.at("heir", "enter") > journal.at("orphan", "leave")
    assert len(journal.events("orphan", "step")) < 1000


async def test_a_late_fence_is_refused_before_the_engine_is_touched(
    journal: Journal, cluster_database: Database, leasing: int
) -> None:
    lease = await leased(cluster_database, leasing, new_pool())
    said = Said(Call(lease.job_id, lease.fence + 1, Ask("late")))
    end = await said.end()
    assert isinstance(end, Halted)
    assert (end.step, end.gpu_seconds, said.messages) == (0, 0.0, [end])
    assert journal.events("late", "enter") == []


@pytest.mark.parametrize(
    ("trouble", "code"),
    [("fault", "odd"), ("bug", "engine_error"), ("unsendable", "engine_error"), ("no deadline", "engine_error")],
)
async def test_a_fault_of_one_request_leaves_the_replica_as_it_was(
    journal: Journal, cluster_database: Database, leasing: int, trouble: str, code: str
) -> None:
    _, said = await asked(cluster_database, leasing, Ask(f"trouble-{trouble}", trouble=trouble))
    end = await said.end()
    assert isinstance(end, Faulted)
    assert (end.code, end.recycle) == (code, False)
    assert "divided" not in end.message, "an exception's own text may hold a prompt"
    _, after = await asked(cluster_database, leasing, Ask(f"after-{trouble}"))
    assert isinstance(await after.end(), Finished)
    assert after.replica == said.replica


@pytest.mark.parametrize(("trouble", "code"), [("recycle", "device_lost"), ("stuck", "deadline")])
async def test_a_replica_that_cannot_be_trusted_says_so_then_ends_and_begins_nothing_more(
    journal: Journal, cluster_database: Database, leasing: int, trouble: str, code: str
) -> None:
    _, said = await asked(cluster_database, leasing, Ask(trouble, trouble=trouble, deadline_s=1.0))
    await said.until(Started)
    _, waiting = await asked(cluster_database, leasing, Ask(f"waiting-{trouble}"))
    end = await said.until(Faulted)
    assert (end.code, end.recycle) == (code, True)
    # The waiting call may be lost with the process, or begin on the one that follows.
    with contextlib.suppress(RayActorError):
        assert await result_of(await waiting.end()) == f"waiting-{trouble}"
    dying = journal.events(trouble, "enter")[0]["pid"]
    assert all(event["pid"] != dying for event in journal.events(f"waiting-{trouble}", "enter"))
    _, after = await asked(cluster_database, leasing, Ask(f"after-{trouble}"))
    assert isinstance(await after.end(), Finished)
    assert after.replica != said.replica
    await asyncio.gather(said.task, waiting.task, return_exceptions=True)


async def test_a_stuck_engine_makes_its_replica_unhealthy_and_serve_replaces_it(
    journal: Journal, cluster_database: Database, leasing: int
) -> None:
    _, said = await asked(cluster_database, leasing, Ask("hanging", trouble="stuck", deadline_s=3600))
    await said.until(Started)
    with pytest.raises(RayActorError):
        await asyncio.wait_for(said.task, 30)
    _, after = await asked(cluster_database, leasing, Ask("after-hanging"))
    assert isinstance(await after.end(), Finished)
    assert after.replica != said.replica
