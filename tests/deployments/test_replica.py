"""The replica in this process, without Serve: what a call ends with, whatever goes wrong around the engine."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray
from pydantic import ValidationError
from ray.exceptions import ObjectLostError
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.testing import capture_logs

from core.database import Database
from core.log import logger
from deployments import clips
from deployments import replica as replica_module
from deployments.clips import Film, Mezzanine
from deployments.messages import Call, End, Faulted, Finished, Halted, Message, Progress, Started
from deployments.replica import Replica, ReplicaArgs, with_objects
from jobs import permits
from media.clip import Clip
from models import registry
from models.base import NotReady, OnStep
from storage import Artifact, LocalStore
from tests.deployments.recording import Ask, Journal, RecordingReplica
from tests.deployments.test_clips import clip
from tests.leasing import cancelled, leased, new_pool, session, until_true

ARGS = {"pool": "qwen-image", "engine": "qwen-image", "weights": "tiny:qwen-image"}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


@pytest.fixture
async def replica(
    in_cluster: None, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RecordingReplica]:
    monkeypatch.setattr(registry, "ENGINES", registry.ENGINES)
    made = RecordingReplica(ReplicaArgs(pool="p", engine="recording", weights=f"dir:{journal.folder}"))
    yield made
    for task in made._tasks:
        task.cancel()
    await asyncio.gather(*made._tasks, return_exceptions=True)
    if made._database is not None:
        await made._database.close()


@pytest.fixture
async def call(cluster_database: Database) -> AsyncIterator[Callable[[Ask], Any]]:
    async with session(cluster_database) as number:

        async def make(ask: Ask) -> Call:
            lease = await leased(cluster_database, number, new_pool())
            return Call(lease.job_id, lease.fence, ask, request_id=lease.request_id)

        yield make


async def said(replica: RecordingReplica, call: Call) -> list[Message]:
    return [message async for message in replica.run(call)]


async def test_calls_never_overlap_however_they_come_and_go(
    replica: RecordingReplica, journal: Journal, call: Callable[[Ask], Any]
) -> None:
    chance = random.Random(4)
    calls = [await call(Ask(f"call {number}", steps=20, step_s=0.005, lag_s=0.02)) for number in range(12)]

    async def come_and_go(one: Call) -> None:
        await asyncio.sleep(chance.uniform(0, 0.3))
        patience = chance.choice([0.05, 0.2, 30.0])
        async with aclosing(replica.run(one)) as stream:
            try:
                async with asyncio.timeout(patience):
                    async for _ in stream:
                        pass
            except TimeoutError:
                pass

    await asyncio.gather(*(come_and_go(one) for one in calls))
    await until_true(lambda: not replica._lock.locked(), "the engine at rest")
    stays = sorted(
        (journal.at(one.request.name, "enter"), journal.at(one.request.name, "leave"))
        for one in calls
        if journal.events(one.request.name, "enter")
    )
    assert len(stays) > 3
    assert all(left <= entered for (_, left), (entered, _) in pairwise(stays))


async def test_a_result_lives_as_long_as_its_lease(
    replica: RecordingReplica, call: Callable[[Ask], Any], cluster_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray forgets an object between the end of the replica's reference and the news of the caller's."""

    class Reference:
        pass

    monkeypatch.setattr(permits, "REREAD_SECONDS", 0.05)
    monkeypatch.setattr(ray, "put", lambda _: Reference())
    one = await call(Ask("kept"))
    end = (await said(replica, one))[-1]
    assert isinstance(end, Finished)
    seen = weakref.ref(end.result)
    del end
    for _ in range(20):
        await asyncio.sleep(0.02)
        assert seen() is not None
    await cluster_database.execute("SELECT hand_back($1, $2, 'test', false)", one.job_id, one.fence)
    await until_true(lambda: seen() is None, "the result forgotten")


async def test_a_stop_is_heard_by_notification(
    replica: RecordingReplica, call: Callable[[Ask], Any], cluster_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "REREAD_SECONDS", 60)
    one = await call(Ask("told", steps=1000))
    stream = replica.run(one)
    await anext(stream)
    account = await cluster_database.fetch_value("SELECT account_id FROM job WHERE id = $1", one.job_id)
    listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    await until_true(lambda: cluster_database.fetch_value(listening), "the replica listening")
    await cluster_database.execute("SELECT cancel($1, $2, NULL, NULL, NULL)", account, one.job_id)
    async with asyncio.timeout(5):
        *_, end = [message async for message in stream]
    assert isinstance(end, Halted)


async def test_a_stop_is_found_by_reading_again_when_notifications_are_lost(
    replica: RecordingReplica, call: Callable[[Ask], Any], cluster_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "REREAD_SECONDS", 0.2)
    one = await call(Ask("untold", steps=1000))
    stream = replica.run(one)
    assert isinstance(await anext(stream), Started)
    # The fence grows without any NOTIFY, as when a session was reclaimed.
    await cluster_database.execute("UPDATE job SET fence = fence + 1 WHERE id = $1", one.job_id)
    async with asyncio.timeout(5):
        *_, end = [message async for message in stream]
    assert isinstance(end, Halted)


async def test_without_a_database_nothing_begins_and_the_next_call_tries_again(
    replica: RecordingReplica, journal: Journal, call: Callable[[Ask], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = replica._settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    there, replica._settings = replica._settings, away
    one = await call(Ask("early"))
    (end,) = await said(replica, one)
    assert isinstance(end, Halted)
    assert end.step == 0
    assert journal.events("early", "enter") == []
    replica._settings = there
    assert isinstance((await said(replica, one))[-1], Finished)


async def test_every_line_about_a_call_carries_its_requests_id_and_no_other_line(
    replica: RecordingReplica, call: Callable[[Ask], Any], cluster_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(database: Database, *channels: str) -> None:
        raise OSError("nobody is there")

    # A replica sets up the log when it is made; a logger used before keeps what it began with.
    monkeypatch.setattr(replica_module, "log", logger(replica_module.__name__))
    monkeypatch.setattr(replica_module, "_LISTEN_RETRY_SECONDS", 0.05)
    calls = [await call(Ask(f"call {number}", trouble="bug")) for number in range(2)]
    calls.append(await call(Ask("no deadline", trouble="no deadline")))
    listening = "query LIKE 'LISTEN%' AND datname = current_database()"
    with capture_logs([merge_contextvars]) as lines:
        for one in calls:
            assert isinstance((await said(replica, one))[-1], Faulted)
        found = f"SELECT count(*) FROM pg_stat_activity WHERE {listening}"
        await until_true(lambda: cluster_database.fetch_value(found), "the replica listening")
        monkeypatch.setattr(Database, "listen", away)
        await cluster_database.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listening}")
        await until_true(lambda: len(lines) > 3, "the lost notifications told")
    assert [(line["event"], line["request_id"], line["job"], line["fence"]) for line in lines[:3]] == [
        (event, one.request_id, str(one.job_id), one.fence)
        for event, one in zip(["the engine failed", "the engine failed", "a call failed"], calls, strict=True)
    ]
    assert lines[3]["event"] == "stop notifications lost; the permit is re-read meanwhile"
    assert not {"request_id", "job", "fence"} & set(lines[3])


async def test_what_an_engine_logs_carries_the_requests_id(
    replica: RecordingReplica, call: Callable[[Ask], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[Any] = []

    def take(sink: Any, clip: Any, store: Any, on_drawn: Callable[[], None]) -> str:
        bound.append(get_contextvars()["request_id"])
        return "kept"

    monkeypatch.setattr(clips, "take", take)
    one = dataclasses.replace(await call(Ask("clip")), sink=Mezzanine("jobs/a/1"))
    assert isinstance((await said(replica, one))[-1], Finished)
    assert bound == [one.request_id]


async def test_a_permit_that_breaks_ends_the_call_instead_of_hanging_it(
    replica: RecordingReplica, call: Callable[[Ask], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(permit: permits.Permit) -> None:
        raise ZeroDivisionError("a bug in the watch")

    monkeypatch.setattr(permits.Permit, "_watch", broken)
    async with asyncio.timeout(10):
        messages = await said(replica, await call(Ask("watched")))
    assert isinstance(messages[-1], End)
    monkeypatch.undo()
    assert not replica._lock.locked()


async def test_a_dying_replica_keeps_its_lock(
    replica: RecordingReplica, journal: Journal, call: Callable[[Ask], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []
    monkeypatch.setattr("deployments.replica.os._exit", exits.append)
    monkeypatch.setattr(replica_module, "_FAREWELL_SECONDS", 0.5)
    first = asyncio.create_task(said(replica, await call(Ask("lost device", trouble="recycle"))))
    second = asyncio.create_task(said(replica, await call(Ask("too early"))))
    *_, end = await first
    assert isinstance(end, Faulted)
    assert end.recycle
    await asyncio.sleep(0.2)
    assert (exits, journal.events("too early", "enter")) == ([], [])
    await second
    assert exits == [1]
    assert os.getpid() > 0


async def test_health_follows_the_engines_progress_and_its_own_word(
    replica: RecordingReplica, journal: Journal, call: Callable[[Ask], Any]
) -> None:
    await replica.check_health()
    stream = replica.run(await call(Ask("slow", steps=1, step_s=3.0)))
    assert isinstance(await anext(stream), Started)
    await replica.check_health()
    await asyncio.sleep(1.7)
    with pytest.raises(RuntimeError, match=r"no progress for 1\.5 s"):
        await replica.check_health()
    assert isinstance(await anext(stream), Progress)
    assert isinstance(await anext(stream), Finished)
    await stream.aclose()
    await replica.check_health()
    (journal.folder / "weights").unlink()
    (journal.folder / ".journal").unlink()
    journal.folder.rmdir()
    with pytest.raises(NotReady):
        await replica.check_health()
    journal.folder.mkdir()


async def test_a_store_that_takes_long_is_not_the_engines_lack_of_progress(
    replica: RecordingReplica, call: Callable[[Ask], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    storing, stored = threading.Event(), threading.Event()

    def take(sink: Any, clip: Any, store: Any, on_rest: Callable[[], None]) -> str:
        on_rest()
        storing.set()
        assert stored.wait(30)
        return "kept"

    monkeypatch.setattr(clips, "take", take)
    asked = await call(Ask("slow store"))
    stream = replica.run(dataclasses.replace(asked, sink=Mezzanine("jobs/a/1")))
    assert isinstance(await anext(stream), Started)
    assert await asyncio.to_thread(storing.wait, 30)
    replica._engine.step_limit_s = 0.0
    await replica.check_health()
    stored.set()
    assert [type(message) async for message in stream][-1] is Finished


class SlowStore(LocalStore):
    """A store that takes its time over each file."""

    began: list[str]
    seconds = 0.6

    def put(self, key: str, *given: Any, **named: Any) -> Artifact:
        self.began.append(key)
        time.sleep(self.seconds)
        return super().put(key, *given, **named)


@pytest.mark.parametrize("drawing", [True, False], ids=["as the last frame is drawn", "in the first of three files"])
async def test_a_cancel_is_obeyed_while_a_slow_store_takes_the_film(
    replica: RecordingReplica,
    call: Callable[[Ask], Any],
    cluster_database: Database,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    drawing: bool,
) -> None:
    monkeypatch.setattr(permits, "REREAD_SECONDS", 0.05)
    store = replica._store = SlowStore(tmp_path / "storage", "", None)
    store.began = []
    drawn, lost = threading.Event(), threading.Event()

    def run(request: Ask, on_step: OnStep) -> Clip:
        made = clip(20)

        def chunks() -> Iterator[Any]:
            for number, chunk in enumerate(made.chunks, 1):
                on_step(number, 2)
                if drawing and number == 2:
                    drawn.set()
                    assert lost.wait(30)
                yield chunk

        return dataclasses.replace(made, chunks=chunks())

    replica._engine.run = run  # type: ignore[method-assign]
    asked = await call(Ask("filmed"))
    talking = asyncio.create_task(said(replica, dataclasses.replace(asked, sink=Film("jobs/a/1", 64, 48, 20))))
    await until_true(lambda: drawn.is_set() if drawing else store.began, "the moment of the cancel")
    account = await cluster_database.fetch_value("SELECT account_id FROM job WHERE id = $1", asked.job_id)
    await cluster_database.execute("SELECT cancel($1, $2, NULL, NULL, NULL)", account, asked.job_id)
    if drawing:
        await asyncio.sleep(0.5)
        lost.set()
    *_, end = await asyncio.wait_for(talking, 30)
    assert isinstance(end, Halted)
    assert end.step == 2
    assert store.began == ([] if drawing else ["jobs/a/1/video.mp4"])


async def test_a_cancel_before_the_call_came_is_obeyed(
    replica: RecordingReplica, journal: Journal, cluster_database: Database
) -> None:
    async with session(cluster_database) as number:
        lease = await leased(cluster_database, number, new_pool())
        await cancelled(cluster_database, lease)
        (end,) = await said(replica, Call(lease.job_id, lease.fence, Ask("cancelled")))
    assert isinstance(end, Halted)
    assert journal.events("cancelled", "enter") == []


@pytest.mark.parametrize(
    "change",
    [
        {"engine": None},
        {"canvasCap": 100},
        {"stepCap": 1},
        {"standIn": "perhaps"},
        {"prize": 3},
        {"canvasCap": "many"},
        {"weights": 7},
    ],
)
def test_args_of_a_fleet_that_are_wrong_are_refused(change: dict[str, Any]) -> None:
    ReplicaArgs.model_validate(ARGS)
    with pytest.raises(ValidationError):
        ReplicaArgs.model_validate({**ARGS, **change})


@pytest.mark.parametrize("missing", ["pool", "engine", "weights"])
def test_args_that_are_missing_are_asked_for(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        ReplicaArgs.model_validate({name: value for name, value in ARGS.items() if name != missing})


async def test_only_references_are_replaced(in_cluster: None) -> None:
    @dataclass(frozen=True)
    class Request:
        one: Any
        several: Any
        plain: Any = (1, "two")

    kept = Request(1, (2, 3))
    assert await with_objects(kept) is kept
    found = await with_objects(Request(ray.put("a"), (ray.put("b"), "c", ray.put("d"))))
    assert found == Request("a", ("b", "c", "d"))


async def test_lost_objects_begin_nothing_and_are_nobodys_fault(
    replica: RecordingReplica, journal: Journal, call: Callable[[Ask], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(request: Any) -> Any:
        # On one machine Ray still finds what it lost track of.
        raise ObjectLostError("00", None, "")

    with monkeypatch.context() as patch:
        patch.setattr(replica_module, "with_objects", lost)
        (end,) = await said(replica, await call(Ask("lost")))
    assert isinstance(end, Halted)
    assert (end.step, end.gpu_seconds, journal.events("lost", "enter")) == (0, 0.0, [])
    assert isinstance((await said(replica, await call(Ask("found"))))[-1], Finished)


def test_what_the_options_need_beside_the_weights_is_fetched_and_counts_in_the_digest(
    in_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[str, float]] = []
    monkeypatch.setattr(replica_module, "limit_memory", lambda device, share: limits.append((device, share)))
    lora = {"weights": "tiny:qwen-image-lora", "file": "lora.safetensors"}
    plain = Replica(ReplicaArgs.model_validate({**ARGS, "vramGiB": 30}))
    distilled = Replica(ReplicaArgs.model_validate({**ARGS, "options": {"distillation": {"lora": lora, "steps": 4}}}))
    assert plain._weights.digest != distilled._weights.digest
    assert plain._weights.path == distilled._weights.path
    assert list(distilled._weights.additions) == ["lora"]
    assert limits == [("cpu", 30)]
