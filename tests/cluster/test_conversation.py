from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
from ray import serve
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from cluster import conversation
from cluster.conversation import Conversation, EngineFailed, JobStopped, ModelResult, NoReplica
from deployments.messages import Call, Faulted, Finished, Message, Started
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

CALL = Call(UUID(int=1), 3, "request")


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], HandleDouble]:
    def prepare(answer: Answer) -> HandleDouble:
        handle = HandleDouble(answer)
        monkeypatch.setattr("cluster.conversation.serve.get_app_handle", handle)
        return handle

    monkeypatch.setattr(conversation, "_STOP_GRACE_SECONDS", 0.1)
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


async def test_an_engine_that_is_not_heard_of_within_the_stop_limit_is_killed(
    talk: Callable[[Answer], HandleDouble], killed: list[str]
) -> None:
    handle = talk(deaf)
    stop = asyncio.Event()
    set_soon(stop)
    with pytest.raises(JobStopped) as stopped:
        await held(stop)
    assert killed == [STARTED.replica]
    assert (stopped.value.step, stopped.value.gpu_released_at is not None) == (1, True)
    assert handle.streams[0].cancelled


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
