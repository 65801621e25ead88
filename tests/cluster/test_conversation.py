from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import ray
from ray import serve
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from cluster import conversation
from cluster.conversation import Conversation, EngineFailed, JobStopped, ModelResult, NoReplica
from core.clock import now
from deployments.messages import Call, Faulted, Finished, Halted, Message, Progress, Started
from tests.cluster.doubles import (
    RELEASED,
    STARTED,
    Answer,
    HandleDouble,
    Stoppable,
    deaf,
    silence,
    success,
    tireless,
)
from tests.leasing import until_true

CALL = Call(UUID(int=1), 3, "request")


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], HandleDouble]:
    def prepare(answer: Answer) -> HandleDouble:
        handle = HandleDouble(answer)
        monkeypatch.setattr("cluster.conversation.serve.get_app_handle", handle)
        return handle

    monkeypatch.setattr(conversation, "_STOP_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(conversation, "_KILL_SECONDS", 0.3)
    return prepare


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr("cluster.conversation.ray.get_actor", lambda name, namespace: (name, namespace))
    monkeypatch.setattr("cluster.conversation.ray.kill", lambda actor: names.append(actor[0]))
    return names


async def held(stop: asyncio.Event | None = None, seen: list[float] | None = None) -> ModelResult:
    async def on_progress(share: float) -> None:
        if seen is not None:
            seen.append(share)

    async with asyncio.timeout(10):
        return await Conversation("pool", stop or asyncio.Event()).hold(CALL, on_progress)


async def ignored(share: float) -> None:
    """Progress that nobody wants."""


def set_soon(stop: asyncio.Event, seconds: float = 0.05) -> None:
    asyncio.get_running_loop().call_later(seconds, stop.set)


async def test_a_call_is_heard_to_its_end(talk: Callable[[Answer], HandleDouble]) -> None:
    handle = talk(success)
    seen: list[float] = []
    said = Conversation("pool", asyncio.Event())

    async def on_progress(share: float) -> None:
        seen.append(share)

    result = await said.hold(CALL, on_progress)
    assert result == ModelResult("made", {"seed": 7}, "replica-1", "double", "sha256:00", True)
    assert seen == [1 / 3, 2 / 3, 1.0]
    assert said.gpu_seconds == 1.5
    (stream,) = handle.streams
    assert stream.call is CALL
    assert not stream.cancelled, "an ended stream is left alone"


async def test_a_stop_before_any_replica_took_the_call_cancels_it(
    talk: Callable[[Answer], HandleDouble], killed: list[str]
) -> None:
    handle = talk(silence)
    stop = asyncio.Event()
    set_soon(stop)
    with pytest.raises(JobStopped) as stopped:
        await held(stop)
    assert (stopped.value.step, stopped.value.gpu_released_at) == (None, None)
    assert handle.streams[0].cancelled
    assert killed == []


async def test_a_running_engine_is_left_to_its_permit_and_its_own_words_are_kept(
    talk: Callable[[Answer], HandleDouble], killed: list[str]
) -> None:
    engine = Stoppable()
    handle = talk(engine.answer)
    stop = asyncio.Event()
    talking = asyncio.create_task(held(stop))
    await engine.began.wait()
    stop.set()
    await asyncio.sleep(0.05)
    assert not talking.done(), "the engine may still hold the GPU"
    engine.lost.set()
    with pytest.raises(JobStopped) as stopped:
        await talking
    assert (stopped.value.step, stopped.value.gpu_released_at) == (2, RELEASED)
    assert (handle.streams[0].cancelled, killed) == (False, [])


async def test_an_engine_that_goes_on_after_the_stop_limit_has_its_call_cancelled_but_is_not_killed(
    talk: Callable[[Answer], HandleDouble], killed: list[str]
) -> None:
    handle = talk(tireless)
    stop = asyncio.Event()
    set_soon(stop, 0.1)
    began = time.monotonic()
    with pytest.raises(JobStopped) as stopped:
        await held(stop)
    assert time.monotonic() - began < 2
    assert stopped.value.step is not None
    assert stopped.value.step > 1
    assert (handle.streams[0].cancelled, killed) == (True, [])


class Killable:
    """An engine that is deaf until its replica is killed: `delay_s` later come the messages `last`, then its death."""

    def __init__(self, delay_s: float, *last: Message) -> None:
        self.delay_s, self.last = delay_s, last
        self.killed = asyncio.Event()
        self.killed_at: datetime | None = None

    def kill(self, actor: Any) -> None:
        self.killed_at = now()
        self.killed.set()

    async def answer(self, call: Call) -> AsyncIterator[Message]:
        yield STARTED
        yield Progress(1, 3)
        await self.killed.wait()
        await asyncio.sleep(self.delay_s)
        for message in self.last:
            yield message
        raise ActorDiedError


@pytest.mark.parametrize("last", [(), (Progress(2, 3),)], ids=["silent", "with words on their way"])
async def test_an_engine_that_is_not_heard_of_within_the_stop_limit_is_killed_and_released_when_it_is_gone(
    talk: Callable[[Answer], HandleDouble],
    killed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    last: tuple[Message, ...],
) -> None:
    engine = Killable(0.1, *last)
    monkeypatch.setattr("cluster.conversation.ray.kill", engine.kill)
    handle = talk(engine.answer)
    stop = asyncio.Event()
    set_soon(stop)
    with pytest.raises(JobStopped) as stopped:
        await held(stop)
    assert stopped.value.step == 1
    assert engine.killed_at is not None
    assert stopped.value.gpu_released_at is not None
    assert timedelta(seconds=0.1) <= stopped.value.gpu_released_at - engine.killed_at < timedelta(seconds=0.3)
    assert handle.streams[0].cancelled


async def test_a_kill_that_is_not_confirmed_names_no_time_of_release(
    talk: Callable[[Answer], HandleDouble], killed: list[str]
) -> None:
    handle = talk(deaf)
    stop = asyncio.Event()
    set_soon(stop)
    with pytest.raises(JobStopped) as stopped:
        await held(stop)
    assert killed == [STARTED.replica]
    assert (stopped.value.step, stopped.value.gpu_released_at) == (1, None)
    assert handle.streams[0].cancelled


async def test_an_engine_that_stops_in_the_moment_of_its_kill_is_taken_at_its_word(
    talk: Callable[[Answer], HandleDouble], killed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Killable(0.0, Halted(2, 0.7, RELEASED))
    monkeypatch.setattr("cluster.conversation.ray.kill", engine.kill)
    talk(engine.answer)
    stop = asyncio.Event()
    set_soon(stop)
    with pytest.raises(JobStopped) as stopped:
        await held(stop)
    assert stopped.value.gpu_released_at == RELEASED


async def test_a_replica_that_is_gone_already_need_not_be_killed(
    talk: Callable[[Answer], HandleDouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(name: str, namespace: str) -> Any:
        raise ValueError(f"no actor {name}")

    monkeypatch.setattr("cluster.conversation.ray.get_actor", gone)
    talk(deaf)
    stop = asyncio.Event()
    set_soon(stop)
    with pytest.raises(JobStopped):
        await held(stop)


async def test_no_replica_in_time_is_nobodys_fault(
    talk: Callable[[Answer], HandleDouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "REPLICA_WAIT_SECONDS", 0.1)
    handle = talk(silence)
    with pytest.raises(NoReplica, match="within"):
        await held()
    assert handle.streams[0].cancelled


async def test_once_begun_a_call_may_take_longer_than_the_wait_for_a_replica(
    talk: Callable[[Answer], HandleDouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "REPLICA_WAIT_SECONDS", 0.1)

    async def slow(call: Call) -> AsyncIterator[Message]:
        async for message in success(call):
            yield message
            await asyncio.sleep(0.2)

    talk(slow)
    assert (await held()).result == "made"


async def test_a_death_before_the_beginning_is_not_the_jobs_and_one_after_it_is(
    talk: Callable[[Answer], HandleDouble],
) -> None:
    async def stillborn(call: Call) -> AsyncIterator[Message]:
        if call.fence:
            raise ActorDiedError
        yield STARTED

    async def killed_in_it(call: Call) -> AsyncIterator[Message]:
        yield STARTED
        raise ActorDiedError

    talk(stillborn)
    with pytest.raises(NoReplica):
        await held()
    talk(killed_in_it)
    with pytest.raises(ActorDiedError):
        await held()


async def test_an_engines_fault_keeps_its_code_and_its_gpu_time(talk: Callable[[Answer], HandleDouble]) -> None:
    async def faulty(call: Call) -> AsyncIterator[Message]:
        yield STARTED
        yield Faulted("out_of_memory", "no memory", 4.0, recycle=True)

    talk(faulty)
    said = Conversation("pool", asyncio.Event())

    async def on_progress(share: float) -> None:
        raise AssertionError("there is none")

    with pytest.raises(EngineFailed) as failed:
        await said.hold(CALL, on_progress)
    assert (failed.value.code, failed.value.recycle, said.gpu_seconds) == ("out_of_memory", True, 4.0)


async def test_an_exception_of_the_replica_itself_is_an_engine_failure(talk: Callable[[Answer], HandleDouble]) -> None:
    make: Any = RayTaskError
    failure: RayTaskError = make("run", "a traceback", KeyError("x"), proctitle="replica", pid=1, ip="127.0.0.1")

    async def broken(call: Call) -> AsyncIterator[Message]:
        yield STARTED
        raise failure

    talk(broken)
    with pytest.raises(EngineFailed) as failed:
        await held()
    assert failed.value.code == "engine_error"


@pytest.mark.parametrize("answer", [silence, deaf, tireless])
async def test_a_caller_that_is_cancelled_cancels_the_call_and_leaves_no_task(
    talk: Callable[[Answer], HandleDouble], answer: Answer
) -> None:
    handle = talk(answer)
    before = asyncio.all_tasks()
    talking = asyncio.create_task(held())
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() - before > {talking}
    talking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await talking
    assert handle.streams[0].cancelled
    assert asyncio.all_tasks() <= before


async def test_progress_that_ends_the_call_cancels_it(talk: Callable[[Answer], HandleDouble]) -> None:
    class Late(Exception):
        pass

    async def on_progress(share: float) -> None:
        raise Late

    handle = talk(success)
    with pytest.raises(Late):
        await Conversation("pool", asyncio.Event()).hold(CALL, on_progress)
    assert handle.streams[0].cancelled


async def test_a_serve_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_CONTROL_SECONDS", 0.1)
    monkeypatch.setattr("cluster.conversation.serve.get_app_handle", lambda pool: time.sleep(0.5))
    with pytest.raises(NoReplica, match="Serve gave no handle"):
        await held()


@pytest.mark.parametrize("error", [DeploymentUnavailableError(DeploymentID("Replica", "pool")), NoReplica("none")])
async def test_serve_is_asked_for_a_handle_once_and_again_when_nobody_is_there(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def gone(call: Call) -> AsyncIterator[Message]:
        if call == CALL:
            raise error
        yield STARTED

    handle = HandleDouble(success)
    asked: list[str] = []

    def get(pool: str) -> HandleDouble:
        asked.append(pool)
        return handle

    monkeypatch.setattr("cluster.conversation.serve.get_app_handle", get)
    await held()
    await held()
    assert asked == ["pool"]
    handle.answer = gone
    with pytest.raises(NoReplica):
        await held()
    handle.answer = success
    await held()
    assert asked == ["pool", "pool"]


@pytest.mark.usefixtures("in_cluster")
async def test_a_handle_follows_its_application_through_a_redeploy_and_a_new_life() -> None:
    def deploy(name: str) -> None:
        class Replica:
            async def run(self, call: Call) -> AsyncIterator[Message]:
                yield Started(name, "engine", "digest", stand_in=False, stop_limit_s=1.0)
                yield Finished(name, 0.0, {})

        options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}, "graceful_shutdown_timeout_s": 0}
        made: Any = serve.deployment(Replica, name="Replica", **options)
        serve.run(made.bind(), name="pool", route_prefix=None)

    try:
        for name in ("first", "second"):
            await asyncio.to_thread(deploy, name)
            assert (await held()).replica == name
        await asyncio.to_thread(serve.delete, "pool")
        await asyncio.to_thread(deploy, "third")
        assert (await held()).replica == "third"
        assert len(conversation._handles) == 1
    finally:
        await asyncio.to_thread(serve.delete, "pool")


@pytest.mark.usefixtures("in_cluster")
async def test_a_killed_replica_is_gone_when_its_gpu_is_called_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Replica:
        async def run(self, call: Call) -> AsyncIterator[Message]:
            (tmp_path / "pid").write_text(str(os.getpid()))
            yield Started(ray.get_runtime_context().get_actor_name() or "", "e", "d", stand_in=False, stop_limit_s=0.1)
            await asyncio.sleep(0.5)
            time.sleep(3600)

    monkeypatch.setattr(conversation, "_STOP_GRACE_SECONDS", 0.5)
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}, "graceful_shutdown_timeout_s": 0}
    made: Any = serve.deployment(Replica, name="Replica", **options)
    await asyncio.to_thread(serve.run, made.bind(), name="deaf", route_prefix=None)
    try:
        stop = asyncio.Event()
        set_soon(stop, 2.0)
        async with asyncio.timeout(30):
            with pytest.raises(JobStopped) as stopped:
                await Conversation("deaf", stop).hold(CALL, ignored)
        heard_at = now()
        assert stopped.value.gpu_released_at is not None
        assert heard_at - stopped.value.gpu_released_at < timedelta(seconds=0.5)
        pid = int((tmp_path / "pid").read_text())
        # Ray tells of an actor's death when it has sent the kill; the kernel takes a moment to take the process down.
        await until_true(
            lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "its end", 0.25
        )
    finally:
        await asyncio.to_thread(serve.delete, "deaf")
