"""Steps over a real database and real Ray tasks; the model step speaks to a double of the Serve handle."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import asyncpg
import numpy as np
import pytest
import ray
from PIL import Image

from cluster import work
from cluster.chains.pictures import listed
from cluster.conversation import EngineFailed, JobStopped
from cluster.steps import LeaseLost, StepFailed, Steps
from core.clock import now
from core.database import Database
from core.egress import AnswerRefused, FetchFailed
from core.ids import uuid7
from core.settings import Settings
from deployments.messages import Call, Faulted, Message, Progress
from jobs.artifacts import Artifacts, FileGone, NoSuchFile
from jobs.leases import Leases
from jobs.models import Lease
from media.errors import InvalidMedia, UnsupportedMedia
from media.provenance import Recipe
from storage import Store, StoreUnavailable, open_store
from tests.cluster.doubles import STARTED, HandleDouble, finished, success
from tests.leasing import cancelled, job_of, leased, new_pool, session, until_true


def png(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (24, 16)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """A web server of pictures on the loopback interface."""
    pages = {"/red.png": png(), "/blue.png": png((0, 0, 255)), "/words": b"no picture", "/cut.png": png()[:60]}

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            self.send_response(200 if page else 404)
            self.send_header("Content-Length", str(len(page or b"")))
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def under(in_cluster: None, cluster_database: Database) -> AsyncIterator[Steps]:
    async with session(cluster_database) as number:
        lease = await leased(cluster_database, number, new_pool())
        yield stepping(cluster_database, lease)


def stepping(database: Database, lease: Lease, leases: Leases | None = None) -> Steps:
    store = open_store(Settings(), Settings().base_url)
    return Steps(lease, leases or Leases(database), Artifacts(database, store, kept_days=7))


@pytest.fixture
def store(in_cluster: None) -> Store:
    """The store of the cluster, with its URLs."""
    return open_store(Settings(), Settings().base_url)


def sleeper(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def broken() -> None:
    raise KeyError("a bug of ours")


def crashing() -> None:
    os._exit(7)


def publish_nowhere(port: int) -> None:
    """Publish to an S3 that is not there."""
    there = {"BUCKET": "tests", "ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY": "a", "SECRET_KEY": "b"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in there.items():
            patch.setenv(f"KILLATAMATA_S3_{name}", value)
        work.publish("jobs/a/1", [("image.webp", "image/webp")], b"picture")


def complaining() -> None:
    raise InvalidMedia("The picture is broken.")


async def test_references_are_fetched_from_urls_and_from_the_store_in_order(
    under: Steps, web: str, store: Store
) -> None:
    green = png((0, 255, 0))
    digest = hashlib.sha256(green).hexdigest()
    store.put(f"in/{digest}", green, "image/png")
    stored = {"sha256": digest, "mimeType": "image/png", "bytes": len(green)}
    found = await under.fetch(listed("referenceImages", [f"{web}/red.png", stored, f"{web}/blue.png"]))
    assert all(isinstance(each.pixels, ray.ObjectRef) for each in found), "no pixels pass through this process"
    assert [each.size for each in found] == [(24, 16)] * 3
    pictures = [await each.pixels for each in found]
    assert [tuple(int(part) for part in picture[0, 0]) for picture in pictures] == [
        (200, 30, 30),
        (0, 255, 0),
        (0, 0, 255),
    ]
    assert {(picture.shape, picture.dtype.name) for picture in pictures} == {((16, 24, 3), "uint8")}


async def finished_before(database: Database, lease: Lease, store: Store) -> str:
    """The URL, its signature long expired, of a picture that another job of the same account made."""
    job = uuid7()
    key = f"jobs/{job}/1/image.webp"
    store.put(key, png((1, 2, 3)), "image/webp")
    async with database.transaction() as connection:
        # A job that was never queued: the triggers would refuse it.
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            """INSERT INTO job SELECT (jsonb_populate_record(job, jsonb_build_object('id', $2::uuid, 'state', 'succeeded',
                 'finished_at', clock_timestamp(), 'session_id', NULL, 'outputs', $3::jsonb))).* FROM job WHERE id = $1""",
            lease.job_id,
            job,
            [{"key": key}],
        )
    return store.url(key, expires_at=now() - timedelta(days=1), filename="a.webp")


async def test_an_own_output_is_read_from_the_store_and_never_over_the_network(
    under: Steps, cluster_database: Database, store: Store
) -> None:
    url = await finished_before(cluster_database, under.lease, store)
    (found,) = await under.fetch(listed("referenceImages", [url]))
    assert tuple(int(part) for part in (await found.pixels)[0, 0]) == (1, 2, 3)
    await cluster_database.execute("UPDATE job SET outputs_deleted_at = clock_timestamp() WHERE outputs <> '[]'")
    with pytest.raises(FileGone):
        await under.fetch(listed("referenceImages", [url]))


async def test_another_accounts_output_is_not_there(under: Steps, cluster_database: Database, store: Store) -> None:
    async with session(cluster_database) as number:
        theirs = await leased(cluster_database, number, new_pool())
    url = await finished_before(cluster_database, theirs, store)
    with pytest.raises(NoSuchFile) as refused:
        await under.fetch(listed("referenceImages", [url]))
    assert refused.value.code == "fetch_failed"


async def test_a_stored_input_that_is_lost_is_our_fault(under: Steps) -> None:
    with pytest.raises(StepFailed, match="no object is stored"):
        await under.fetch(listed("referenceImages", [{"sha256": "0" * 64, "mimeType": "image/png", "bytes": 1}]))


async def test_nothing_to_fetch_is_no_step(under: Steps, cluster_database: Database) -> None:
    assert await under.fetch(listed("referenceImages", [])) == []
    assert (await job_of(cluster_database, under.lease)).stages == []


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("/words", UnsupportedMedia, "This is neither a PNG, a JPEG nor a WebP picture; convert it to one of them."),
        ("/nowhere", AnswerRefused, "The URL's server answered with status 404 instead of 200."),
    ],
)
async def test_the_callers_faults_come_through_as_they_are(
    under: Steps, web: str, path: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        await under.fetch(listed("referenceImages", [web + path]))
    assert type(raised.value) is error
    assert str(raised.value) == text, "a worker's traceback is nothing for a caller"


async def test_a_broken_picture_is_the_callers_fault_too(under: Steps, web: str) -> None:
    with pytest.raises(InvalidMedia, match="broken or cut off"):
        await under.fetch(listed("referenceImages", [f"{web}/cut.png"]))


async def test_a_private_address_that_nobody_allowed_is_not_fetched(under: Steps) -> None:
    with pytest.raises(FetchFailed, match="no public address"):
        await under.fetch(listed("referenceImages", ["http://10.0.0.1/picture.png"]))


async def test_an_image_is_encoded_published_and_hashed(
    under: Steps, in_cluster: None, cluster_database: Database
) -> None:
    class Made:
        pixels = np.full((64, 64, 3), 90, dtype=np.uint8)

    recipe = Recipe(task="t", engine="e", weights_digest="d", stand_in=True, seed=1, input_sha256="0")
    content, small = await under.cpu("encode", work.encode_picture, Made(), "png", (96, 32), recipe)
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.size, picture.format) == ((96, 32), "PNG")
    artifacts = await under.publish(
        {"image.png": (content, "image/png"), "thumbnail.webp": (ray.put(small.content), "image/webp")}
    )
    folder = f"jobs/{under.lease.job_id}/{under.lease.fence}"
    for name, kind, stored, artifact in (
        ("image.png", "image/png", content, artifacts[0]),
        ("thumbnail.webp", "image/webp", small.content, artifacts[1]),
    ):
        assert artifact == {
            "key": f"{folder}/{name}",
            "mimeType": kind,
            "bytes": len(stored),
            "sha256": hashlib.sha256(stored).hexdigest(),
        }
        assert open_store(Settings(), base_url="").read(f"{folder}/{name}") == stored
    stages = (await job_of(cluster_database, under.lease)).stages
    assert [(stage.name, stage.gpu_seconds) for stage in stages] == [("encode", 0.0), ("publish", 0.0)]
    assert all(stage.ended_at is not None and stage.ended_at > stage.started_at for stage in stages)


async def test_a_stop_ends_a_cpu_step_at_once_and_begins_no_other(under: Steps) -> None:
    running = asyncio.create_task(under.cpu("slow", sleeper, 30))
    await asyncio.sleep(1.0)
    began = time.monotonic()
    under.stop()
    with pytest.raises(JobStopped):
        await running
    assert time.monotonic() - began < 2
    with pytest.raises(JobStopped):
        await under.cpu("next", sleeper, 0)


@pytest.mark.parametrize(("task", "text"), [(broken, "a bug of ours"), (crashing, "crashed|died")])
async def test_a_step_that_breaks_on_our_side_is_a_failed_step(under: Steps, task: Any, text: str) -> None:
    with pytest.raises(StepFailed, match=text):
        await under.cpu("step", task)


async def test_media_errors_of_any_step_are_the_callers(under: Steps) -> None:
    with pytest.raises(InvalidMedia) as raised:
        await under.cpu("probe", complaining)
    assert str(raised.value) == "The picture is broken."


async def test_a_store_that_is_away_is_no_failed_step(under: Steps, cluster_database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(StoreUnavailable) as raised:
        await under.cpu("publish", publish_nowhere, port)
    assert (type(raised.value), raised.value.reason) == (StoreUnavailable, "EndpointConnectionError")
    (stage,) = (await job_of(cluster_database, under.lease)).stages
    assert stage.ended_at is not None


async def test_a_late_fence_begins_no_step(under: Steps, cluster_database: Database) -> None:
    await Leases(cluster_database).hand_back(under.lease, "test", counts=False)
    with pytest.raises(LeaseLost):
        await under.cpu("step", sleeper, 0)
    assert (await job_of(cluster_database, under.lease)).stages == []


async def test_the_model_step_notes_gpu_seconds_and_progress(
    under: Steps, cluster_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = HandleDouble(success)
    monkeypatch.setattr("cluster.conversation.serve.get_app_handle", handle)
    made = await under.model("qwen-image", "request")
    assert (made.result, made.replica, made.engine) == ("made", "replica-1", "double")
    lease = under.lease
    assert handle.streams[0].call == Call(lease.job_id, lease.fence, "request", request_id=lease.request_id)
    job = await job_of(cluster_database, under.lease)
    assert [(stage.name, stage.gpu_seconds) for stage in job.stages] == [("qwen-image", 1.5)]
    assert 0 < job.progress < 1


async def test_what_the_engine_shows_on_its_way_is_an_event(
    under: Steps, cluster_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def showing(call: Call) -> AsyncIterator[Message]:
        yield STARTED
        yield Progress(1, 3, b"small picture")
        yield Progress(2, 3)
        yield finished()

    monkeypatch.setattr("cluster.conversation.serve.get_app_handle", HandleDouble(showing))
    await under.model("pool", "request")
    (shown,) = await cluster_database.fetch(
        "SELECT data FROM event WHERE job_id = $1 AND type = 'preview'", under.lease.job_id
    )
    assert base64.b64decode(shown["data"]["preview"]["dataBase64"]) == b"small picture"


async def test_progress_is_written_at_most_twice_a_second_and_never_falls(
    under: Steps, cluster_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steady(call: Call) -> AsyncIterator[Message]:
        yield STARTED
        for step in range(1, 61):
            await asyncio.sleep(0.02)
            yield Progress(step, 60)
        yield finished()

    monkeypatch.setattr("cluster.conversation.serve.get_app_handle", HandleDouble(steady))
    began = time.monotonic()
    await under.model("pool", "request")
    spent = time.monotonic() - began
    rows = await cluster_database.fetch(
        "SELECT data ->> 'progress' AS share FROM event WHERE job_id = $1 AND type = 'progress' ORDER BY seq",
        under.lease.job_id,
    )
    shares = [float(row["share"]) for row in rows]
    assert 2 <= len(shares) <= spent * 2 + 1
    assert shares == sorted(shares)
    assert shares[-1] <= 0.95


async def test_progress_under_a_late_fence_ends_the_call(
    under: Steps, cluster_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overtaken(call: Call) -> AsyncIterator[Message]:
        yield STARTED
        await Leases(cluster_database).hand_back(under.lease, "test", counts=False)
        yield Progress(1, 2)
        await asyncio.sleep(60)

    handle = HandleDouble(overtaken)
    monkeypatch.setattr("cluster.conversation.serve.get_app_handle", handle)
    with pytest.raises(LeaseLost):
        await under.model("pool", "request")
    assert handle.streams[0].cancelled


async def test_a_faults_gpu_time_is_noted(
    under: Steps, cluster_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def faulty(call: Call) -> AsyncIterator[Message]:
        yield STARTED
        yield Faulted("blank_output", "grey", 2.25, recycle=False)

    monkeypatch.setattr("cluster.conversation.serve.get_app_handle", HandleDouble(faulty))
    with pytest.raises(EngineFailed):
        await under.model("pool", "request")
    (stage,) = (await job_of(cluster_database, under.lease)).stages
    assert (stage.gpu_seconds, stage.ended_at is not None) == (2.25, True)


class Gone(Leases):
    """A double of a database that goes away when `away` is set."""

    away = False

    async def stage_end(self, *_: Any) -> None:
        if self.away:
            raise asyncpg.ConnectionDoesNotExistError("the server is gone")


async def test_a_cancelled_step_does_not_wait_for_a_database_that_is_away(
    in_cluster: None, cluster_database: Database
) -> None:
    async with session(cluster_database) as number:
        lease = await leased(cluster_database, number, new_pool())
        leases = Gone(cluster_database)
        waiting = asyncio.create_task(stepping(cluster_database, lease, leases).cpu("slow", sleeper, 30))
        await until_true(lambda: stage_count(cluster_database, lease), "the step begun")
        leases.away = True
        began = time.monotonic()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert time.monotonic() - began < 1


async def test_a_finished_step_waits_for_the_database_until_its_task_is_cancelled(
    in_cluster: None, cluster_database: Database
) -> None:
    async with session(cluster_database) as number:
        lease = await leased(cluster_database, number, new_pool())
        leases = Gone(cluster_database)
        leases.away = True
        waiting = asyncio.create_task(stepping(cluster_database, lease, leases).cpu("quick", sleeper, 0))
        await asyncio.sleep(1.5)
        assert not waiting.done()
        leases.away = False
        assert await asyncio.wait_for(waiting, 5) == "slept"


async def stage_count(database: Database, lease: Any) -> int:
    return len((await job_of(database, lease)).stages)


async def test_await_stop_returns_with_the_stop_or_with_its_patience(under: Steps, cluster_database: Database) -> None:
    began = time.monotonic()
    await under.await_stop(0.2)
    assert 0.2 <= time.monotonic() - began < 1
    asyncio.get_running_loop().call_later(0.1, under.stop)
    await asyncio.wait_for(under.await_stop(60), 5)
    await cancelled(cluster_database, under.lease)
