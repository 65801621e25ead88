"""Streams of events as a caller meets them: a real uvicorn on loopback over a real database."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from api import events as api_events
from api import views
from api.server import listen
from core.clock import now
from core.ids import decode, encode, uuid7
from jobs.leases import Leases, Outcome
from jobs.models import Failure
from tests.leasing import until_true
from tests.serving import Served, serving
from tests.tcp import Tcp, over_tcp

EVENTS = "/api/v1/media/jobs/events"
JOBS = "/api/v1/media/jobs"


class Caller:
    """An account with a key, over TCP."""

    def __init__(self, served: Served, tcp: Tcp, client: httpx.AsyncClient) -> None:
        self.served = served
        self.tcp = tcp
        self.client = client
        self.key = served.client.headers["x-api-key"]
        self.leases = Leases(served.services.database, served.services.wakeup.tell)

    async def submit(self) -> dict[str, Any]:
        return await self.served.submit()

    def ids(self, job: dict[str, Any]) -> UUID:
        found = decode("job", job["jobId"])
        assert found is not None
        return found

    def at(self, job: dict[str, Any]) -> str:
        """Where its events are, with the token that came with it."""
        return f"{EVENTS}?{urlsplit(job['eventsUrl']).query}"

    async def get(self, job_id: str, *, key: bool = True, last: str | None = None, **query: str) -> httpx.Response:
        headers = {"x-api-key": self.key} if key else {}
        if last is not None:
            headers["Last-Event-ID"] = last
        return await self.client.get(EVENTS, params={"jobId": job_id, **query}, headers=headers)

    @asynccontextmanager
    async def stream(self, url: str, **headers: str) -> AsyncIterator[tuple[httpx.Response, Any]]:
        """An open stream and its events."""
        async with self.client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield answer, EventSource(answer).aiter_sse()

    async def all(self, url: str, **headers: str) -> list[ServerSentEvent]:
        """Every event up to the end of the stream."""
        async with asyncio.timeout(20), self.stream(url, **headers) as (_, found):
            return [event async for event in found]

    @property
    def open(self) -> int:
        return self.served.services.hub.count()


@asynccontextmanager
async def calling(database_url: str, tmp_path: Path, *, stalled: float = 60, **settings: Any) -> AsyncIterator[Caller]:
    async with (
        serving(database_url, tmp_path, **settings) as served,
        over_tcp(served.app, stalled) as tcp,
        httpx.AsyncClient(base_url=tcp.url, timeout=20) as client,
    ):
        yield Caller(served, tcp, client)


@pytest.fixture
async def caller(database_url: str, tmp_path: Path) -> AsyncIterator[Caller]:
    async with calling(database_url, tmp_path) as made:
        yield made


def ids(found: list[ServerSentEvent]) -> list[str]:
    return [event.id for event in found]


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 422, answer.text
    (field,) = answer.json()["details"]["fields"]
    found: dict[str, Any] = field
    return found


async def test_a_browser_follows_a_job_to_its_end(caller: Caller) -> None:
    job = await caller.submit()
    assert job["eventsUrl"].startswith(f"https://api.example.test{EVENTS}?jobId={job['jobId']}&token=")
    async with asyncio.timeout(20), caller.stream(caller.at(job)) as (answer, stream):
        assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["x-request-id"]
        found = [await anext(stream)]
        lease = await caller.served.claim()
        found.append(await anext(stream))
        await caller.leases.stage_begin(lease, "qwen-image")
        found.append(await anext(stream))
        await caller.leases.progress(lease, 0.25)
        found.append(await anext(stream))
        await caller.served.succeed(lease)
        found += [event async for event in stream]
    assert ids(found) == ["1", "2", "3", "4", "5"]
    assert [event.event for event in found] == ["state", "state", "stage", "progress", "state"]
    data = [event.json() for event in found]
    assert [each["sequence"] for each in data] == [1, 2, 3, 4, 5]
    assert {each["jobId"] for each in data} == {job["jobId"]}
    assert [each["at"] for each in data] == sorted(each["at"] for each in data)
    told = [{name: each[name] for name in ("status", "stage", "progress") if name in each} for each in data]
    assert told == [
        {"status": "queued"},
        {"status": "running"},
        {"stage": "qwen-image"},
        {"progress": 0.25},
        {"status": "succeeded"},
    ]
    await until_true(lambda: not caller.open and not caller.tcp.requests, "the stream is gone")


async def test_a_stream_begins_with_its_retry_and_beats(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_events, "HEARTBEAT_SECONDS", 0.1)
    job = await caller.submit()
    async with asyncio.timeout(20), caller.client.stream("GET", caller.at(job)) as answer:
        text = ""
        async for part in answer.aiter_text():
            text += part
            if text.endswith("\n:\n:\n:\n"):
                break
    first, _, rest = text.partition("\n\n")
    assert first.startswith("retry: 1000\n")
    assert [line.partition(": ")[0] for line in first.split("\n")] == ["retry", "id", "event", "data"]
    assert json.loads(first.partition("data: ")[2])["status"] == "queued"
    assert rest == ":\n:\n:\n"


async def test_a_stream_is_resumed_where_it_broke(caller: Caller) -> None:
    job = await caller.submit()
    lease = await caller.served.claim()
    for step in range(8):
        await caller.leases.progress(lease, step / 8)
    resumed = asyncio.create_task(caller.all(caller.at(job), **{"Last-Event-ID": "4"}))
    by_query = asyncio.create_task(caller.all(f"{caller.at(job)}&lastEventId=6"))
    header_counts = asyncio.create_task(caller.all(f"{caller.at(job)}&lastEventId=6", **{"Last-Event-ID": "9"}))
    up_to_date = asyncio.create_task(caller.all(caller.at(job), **{"Last-Event-ID": "10"}))
    await until_true(lambda: caller.open == 4, "four streams")
    await caller.served.succeed(lease)
    assert ids(await resumed) == [str(number) for number in range(5, 12)]
    assert ids(await by_query) == [str(number) for number in range(7, 12)]
    assert ids(await header_counts) == ["10", "11"]
    assert ids(await up_to_date) == ["11"]


async def test_an_ended_job_is_told_again_or_not_at_all(caller: Caller) -> None:
    job = await caller.submit()
    await caller.served.succeed(await caller.served.claim())
    assert ids(await caller.all(caller.at(job))) == ["1", "2", "3"]
    assert ids(await caller.all(caller.at(job), **{"Last-Event-ID": "2"})) == ["3"]
    for answer in (
        await caller.get(job["jobId"], last="3"),
        await caller.get(job["jobId"], lastEventId="3"),
        await caller.client.get(caller.at(job), headers={"Last-Event-ID": "3"}),
    ):
        assert (answer.status_code, answer.content) == (204, b"")
    assert caller.open == 0


async def test_when_the_events_are_gone_the_end_is_made_from_the_job(caller: Caller) -> None:
    job = await caller.submit()
    failure = Failure("fetch_failed", "The URL did not answer.", retryable=False)
    lease = await caller.served.claim()
    await caller.leases.settle(lease, "failed", Outcome(), failure)
    (before,) = await caller.all(caller.at(job), **{"Last-Event-ID": "2"})
    await caller.served.services.database.execute("DELETE FROM event WHERE job_id = $1", lease.job_id)
    for last in ("0", "2"):
        (event,) = await caller.all(caller.at(job), **{"Last-Event-ID": last})
        assert (event.id, event.event) == (before.id, before.event)
        assert {**event.json(), "at": 0} == {**before.json(), "at": 0}
    assert (await caller.get(job["jobId"], last="3")).status_code == 204


async def test_a_long_past_is_read_in_pages(caller: Caller) -> None:
    job = await caller.submit()
    lease = await caller.served.claim()
    await caller.served.services.database.execute(
        "SELECT job_progress($1, $2, 0.5) FROM generate_series(1, 1000)", lease.job_id, lease.fence
    )
    live = asyncio.create_task(caller.all(caller.at(job)))
    await until_true(lambda: caller.open, "a stream")
    await caller.served.succeed(lease)
    assert ids(await live) == ids(await caller.all(caller.at(job))) == [str(number) for number in range(1, 1004)]


@pytest.mark.parametrize("last", ["3", "2147483648", "99999999999", "-1", "1.0", "x", "", "٣", "1,2", "0x1", "1e0"])
async def test_a_last_event_id_that_is_none_of_this_job_is_422(caller: Caller, last: str) -> None:
    job = await caller.submit()
    await caller.served.claim()
    headers = {b"x-api-key": caller.key.encode(), b"Last-Event-ID": last.encode()}
    field = problem(await caller.client.get(EVENTS, params={"jobId": job["jobId"]}, headers=headers))
    assert (field["path"], field["allowed"]) == ("Last-Event-ID", "0 to 2")


@pytest.mark.parametrize("last", ["3", "-1", "x", "99999999999", "1.5", ""])
async def test_so_is_one_in_the_query(caller: Caller, last: str) -> None:
    job = await caller.submit()
    await caller.served.claim()
    assert problem(await caller.get(job["jobId"], lastEventId=last))["path"] == "lastEventId"


async def test_two_last_event_ids_are_422(caller: Caller) -> None:
    job = await caller.submit()
    headers = [("x-api-key", caller.key), ("Last-Event-ID", "0"), ("Last-Event-ID", "1")]
    answer = await caller.client.get(EVENTS, params={"jobId": job["jobId"]}, headers=headers)
    assert problem(answer)["path"] == "Last-Event-ID"


async def test_a_last_event_id_of_another_job_is_422_or_a_place_in_this_one(caller: Caller) -> None:
    further, job = await caller.submit(), await caller.submit()
    lease = await caller.served.claim()
    assert lease.job_id == caller.ids(further)
    for _ in range(5):
        await caller.leases.progress(lease, 0.5)
    assert problem(await caller.get(job["jobId"], last="7"))["path"] == "Last-Event-ID"


async def test_what_is_not_there_or_not_yours_is_404(caller: Caller) -> None:
    job = await caller.submit()
    async with await caller.served.another() as other:
        theirs = other.headers["x-api-key"]
    answers = [
        await caller.client.get(EVENTS, params={"jobId": job["jobId"]}, headers={"x-api-key": theirs}),
        await caller.get(encode("job", uuid7())),
        await caller.get("job_1"),
        await caller.get(""),
    ]
    assert {(answer.status_code, answer.json()["error"]) for answer in answers} == {(404, "not_found")}
    assert len({answer.json()["details"]["message"] for answer in answers[:2]}) == 1


async def test_without_key_or_token_it_is_401(caller: Caller) -> None:
    job = await caller.submit()
    for headers in ({}, {"x-api-key": "no"}, {"Authorization": "Bearer no"}):
        answer = await caller.client.get(EVENTS, params={"jobId": job["jobId"]}, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")


async def refused(caller: Caller, url: str, says: str, **headers: str) -> None:
    answer = await caller.client.get(url, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
    assert says in answer.json()["details"]["message"]
    assert answer.headers["www-authenticate"] == "Bearer"
    assert caller.open == 0


async def test_a_tampered_token_opens_nothing(caller: Caller) -> None:
    job = await caller.submit()
    (token,) = parse_qs(urlsplit(job["eventsUrl"]).query)["token"]
    for bad in ("", "x", "x" + token, token[::-1], "é", token.replace(".", "!"), "x" * 5000):
        url = str(httpx.URL(EVENTS, params={"jobId": job["jobId"], "token": bad}))
        await refused(caller, url, "altered")
        await refused(caller, url, "altered", **{"x-api-key": caller.key})


async def test_a_token_of_another_job_opens_nothing(caller: Caller) -> None:
    mine, other = await caller.submit(), await caller.submit()
    url = caller.at(mine).replace(mine["jobId"], other["jobId"])
    await refused(caller, url, "another job")
    await refused(caller, url.replace("jobId=", "other="), "another job")


async def test_an_expired_token_opens_nothing(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = caller.served.services.settings.event_token_seconds
    monkeypatch.setattr(views, "now", lambda: now() - timedelta(seconds=seconds + 1))
    await refused(caller, caller.at(await caller.submit()), "expired")


async def test_a_token_ends_with_its_key(caller: Caller) -> None:
    job = await caller.submit()
    await revoke(caller)
    await refused(caller, caller.at(job), "revoked")


async def test_a_token_does_nothing_else(caller: Caller) -> None:
    job = await caller.submit()
    (token,) = parse_qs(urlsplit(job["eventsUrl"]).query)["token"]
    for headers in ({"x-api-key": token}, {"Authorization": f"Bearer {token}"}):
        for method, path in (("GET", JOBS), ("DELETE", JOBS), ("GET", EVENTS), ("GET", f"{JOBS}/receipt")):
            answer = await caller.client.request(method, path, params={"jobId": job["jobId"]}, headers=headers)
            assert answer.status_code == 401
    for path in (JOBS, f"{JOBS}/receipt", "/api/v1/balance"):
        answer = await caller.client.get(path, params={"jobId": job["jobId"], "token": token})
        assert answer.status_code == 401


async def test_a_token_beside_a_key_must_be_of_the_same_account(caller: Caller) -> None:
    job = await caller.submit()
    await caller.served.succeed(await caller.served.claim())
    assert ids(await caller.all(caller.at(job), **{"x-api-key": caller.key})) == ["1", "2", "3"]
    async with await caller.served.another() as other:
        await refused(caller, caller.at(job), "different accounts", **{"x-api-key": other.headers["x-api-key"]})
    await refused(caller, caller.at(job), "valid API key", **{"x-api-key": "no"})


async def revoke(caller: Caller) -> None:
    answer = await caller.served.client.post("/api/v1/keys/revoke", json={"keyPrefix": caller.key[3:11]})
    assert answer.status_code == 200, answer.text


async def test_a_key_revoked_in_mid_stream_ends_its_streams(caller: Caller) -> None:
    job = await caller.submit()
    by_token = asyncio.create_task(caller.all(caller.at(job)))
    by_key = asyncio.create_task(caller.all(f"{EVENTS}?jobId={job['jobId']}", **{"x-api-key": caller.key}))
    await until_true(lambda: caller.open == 2, "two streams")
    await asyncio.sleep(0.1)
    await revoke(caller)
    assert [ids(await by_token), ids(await by_key)] == [["1"], ["1"]]
    await until_true(lambda: not caller.open, "the streams are gone")
    assert (await caller.get(job["jobId"])).status_code == 401


async def test_a_cancel_is_told(caller: Caller) -> None:
    job = await caller.submit()
    following = asyncio.create_task(caller.all(caller.at(job)))
    await until_true(lambda: caller.open, "a stream")
    assert (await caller.served.client.delete(JOBS, params={"jobId": job["jobId"]})).status_code == 200
    found = await following
    assert [(event.id, event.event) for event in found] == [("1", "state"), ("2", "cancel_requested"), ("3", "state")]
    assert found[-1].json()["status"] == "cancelled"


async def test_a_key_has_so_many_streams_and_a_closed_one_is_free_again(database_url: str, tmp_path: Path) -> None:
    async with calling(database_url, tmp_path, event_streams_per_key=3) as caller, AsyncExitStack() as streams:
        job = await caller.submit()
        for _ in range(3):
            await streams.enter_async_context(caller.stream(caller.at(job)))
        for answer in (await caller.get(job["jobId"]), await caller.client.get(caller.at(job))):
            assert (answer.status_code, answer.json()["error"]) == (429, "rate_limited")
            assert int(answer.headers["retry-after"]) > 0
            assert "3 event streams" in answer.json()["details"]["message"]
        async with await caller.served.another() as other:
            theirs = (await other.post(JOBS, json={"task": "image.generate", "input": {"prompt": "x"}})).json()
            async with caller.stream(caller.at(theirs)):
                assert caller.open == 4
        await streams.aclose()
        await until_true(lambda: not caller.open, "the streams are gone")
        async with caller.stream(caller.at(job)):
            assert caller.open == 1


async def test_a_caller_that_goes_leaves_nothing_behind(caller: Caller) -> None:
    job = await caller.submit()
    await until_true(lambda: not caller.tcp.requests, "the server is at rest")
    before = len(asyncio.all_tasks())
    for _ in range(3):
        writers = []
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", caller.tcp.port)
            writer.write(f"GET {caller.at(job)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert b"200 OK" in await reader.readline()
            writers.append(writer)
        await until_true(lambda: caller.open == 10, "ten streams")
        for writer in writers:
            writer.transport.abort()
        await until_true(lambda: not caller.open, "no stream")
    await until_true(lambda: not caller.tcp.requests and not caller.tcp.connections, "no request")
    assert len(asyncio.all_tasks()) <= before
    hub = caller.served.services.hub
    assert (hub._watches, hub._by_key) == ({}, {})
    pool = caller.served.services.database.pool
    assert pool.get_idle_size() == pool.get_size()


async def test_a_caller_that_reads_nothing_is_cut_off(database_url: str, tmp_path: Path) -> None:
    async with calling(database_url, tmp_path, stalled=1) as caller:
        job = await caller.submit()
        lease = await caller.served.claim()
        await caller.served.services.database.execute(
            "WITH last AS (UPDATE job SET sequence = 60002 WHERE id = $1)"
            " INSERT INTO event (job_id, seq, type, data)"
            " SELECT $1, seq, 'stage', jsonb_build_object('stage', repeat('x', 200)) FROM generate_series(3, 60002) AS seq",
            lease.job_id,
        )
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(("127.0.0.1", caller.tcp.port))
            stalled.sendall(f"GET {caller.at(job)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await until_true(lambda: caller.open, "a stream")
            (watch,) = next(iter(caller.served.services.hub._watches.values()))
            await until_true(lambda: not caller.open and not caller.tcp.requests, "it was cut off", 30)
            assert 0 < watch.after < 60002


async def test_head_tells_of_the_stream_without_opening_it(caller: Caller) -> None:
    job = await caller.submit()
    answer = await caller.client.head(caller.at(job))
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert caller.open == 0


@pytest.fixture(params=[1, 2])
def ingress(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A real ingress of its own process (or with worker processes), over the test's database."""
    with listen("127.0.0.1", 0) as listening:
        environment = os.environ | {
            "DATABASE_URL": database_url,
            "KILLATAMATA_DATA_DIR": str(tmp_path),
            "KILLATAMATA_INGRESS_WORKERS": str(request.param),
            "KILLATAMATA_SECRET_KEY": "k" * 32,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "api", "--fd", str(listening.fileno())],
            env=environment,
            pass_fds=[listening.fileno()],
            cwd=Path(__file__).parents[2],
        )
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield process, address
    finally:
        process.kill()
        process.wait()


async def test_a_server_that_stops_ends_its_streams_at_once(
    ingress: tuple[subprocess.Popen[bytes], str], database_url: str, tmp_path: Path
) -> None:
    process, address = ingress
    async with serving(database_url, tmp_path) as served:
        job = await served.submit()
        url = f"{address}{EVENTS}?{urlsplit(job['eventsUrl']).query}"
        async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", url) as answer:
            stream = EventSource(answer).aiter_sse()
            assert (await anext(stream)).id == "1"
            process.send_signal(signal.SIGTERM)
            before = time.monotonic()
            assert [event async for event in stream] == []
    await asyncio.to_thread(process.wait, 15)
    assert time.monotonic() - before < 4
