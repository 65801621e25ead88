"""The client against a small real server that misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from killatamata import client as client_module
from killatamata import event_stream, transport
from killatamata.client import Client, Damaged, Gone
from killatamata.transport import Refused, Unreachable
from tests.killatamata.scripted_api import Api, Cut, busy, stream

JOBS = "/api/v1/media/jobs"
EVENTS = f"{JOBS}/events"
CONTENT = b"a picture" * 1000
OUTPUT = {"url": "/file", "bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


@pytest.fixture
async def client(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setattr(transport, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(client_module, "_POLL_SECONDS", 0.01)
    async with Client(api.base_url, "kt_key") as made:
        yield made


async def test_a_submit_is_sent_again_with_the_same_key_until_it_is_accepted(api: Api, client: Client) -> None:
    api.will(busy(), busy(None), PlainTextResponse("Service Unavailable", 503), JSONResponse({"jobId": "job_1"}, 202))
    assert await client.submit("image.generate", {"prompt": "a fox"}, priority="batch") == {"jobId": "job_1"}
    assert len(api.requests) == 4
    keys = {each.headers["x-idempotency-key"] for each in api.requests}
    assert len(keys) == 1
    assert len({each.body for each in api.requests}) == 1
    assert all(each.headers["authorization"] == "Bearer kt_key" for each in api.requests)
    await client.submit("image.generate", {"prompt": "a fox"})
    assert api.requests[-1].headers["x-idempotency-key"] not in keys, "another submit is another job"


async def test_lost_connections_are_tried_again_under_the_same_key(api: Api, client: Client) -> None:
    api.will(Cut(), Cut(), JSONResponse({"jobId": "job_1"}, 202))
    assert (await client.submit("image.generate", {}))["jobId"] == "job_1"
    assert len({each.headers["x-idempotency-key"] for each in api.requests}) == 1
    assert len(api.requests) == 3


@pytest.mark.parametrize("write", ["quote", "submit", "cancel"])
async def test_every_write_has_one_key_over_its_tries(api: Api, client: Client, write: str) -> None:
    async def send(key: str | None = None) -> set[str]:
        begun = len(api.requests)
        api.will(busy(), Cut(), JSONResponse({"status": "cancelled"}))
        if write == "cancel":
            await client.cancel("job_1", idempotency_key=key)
        elif write == "quote":
            await client.quote("image.generate", {}, idempotency_key=key)
        else:
            await client.submit("image.generate", {}, idempotency_key=key)
        sent = api.requests[begun:]
        assert len(sent) == 3
        return {each.headers["x-idempotency-key"] for each in sent}

    (drawn,) = await send()
    assert len(drawn) == 32
    assert await send() != {drawn}, "another write has another key"
    assert await send("mine") == {"mine"}


async def test_a_twin_still_under_way_is_waited_for(api: Api, client: Client) -> None:
    twin = JSONResponse({"error": "idempotency_in_progress", "details": {}}, 409, {"Retry-After": "0"})
    api.will(twin, JSONResponse({"jobId": "job_1"}, 202))
    assert (await client.submit("image.generate", {}))["jobId"] == "job_1"


async def test_retry_after_is_honoured(api: Api, client: Client) -> None:
    api.will(busy("1"), JSONResponse({"status": "queued"}))
    began = time.monotonic()
    await client.job("job_1")
    assert 1.0 <= time.monotonic() - began < 3


@pytest.mark.parametrize("retry_after", ["-5", "nan", "Wed, 21 Oct 2026 07:28:00 GMT", "", "1e9", "٣"])
async def test_a_retry_after_that_is_no_number_of_seconds_counts_as_absent(
    api: Api, client: Client, retry_after: str
) -> None:
    api.will(busy(retry_after.encode().decode("latin-1")), JSONResponse({"status": "queued"}))
    async with asyncio.timeout(5):
        assert await client.job("job_1") == {"status": "queued"}


async def test_a_server_may_not_keep_a_client_asleep_for_a_day(
    api: Api, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LONGEST_PAUSE_SECONDS", 0.05)
    api.will(busy("86400"), JSONResponse({"status": "queued"}))
    async with asyncio.timeout(5):
        await client.job("job_1")


async def test_a_task_that_no_fleet_runs_is_refused_at_once(api: Api, client: Client) -> None:
    api.will(busy("60", "task_unavailable"))
    with pytest.raises(Refused) as refused:
        await client.submit("video.generate", {})
    assert (refused.value.status, refused.value.code, len(api.requests)) == (503, "task_unavailable", 1)


async def test_patience_ends(api: Api, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "TRIES", 3)
    api.will(busy())
    with pytest.raises(Refused, match="503 database_unavailable: again"):
        await client.job("job_1")
    assert len(api.requests) == 3
    api.will(Cut())
    with pytest.raises(Unreachable, match="cannot be reached"):
        await client.job("job_1")


async def test_a_refusal_names_the_fields(api: Api, client: Client) -> None:
    details = {"message": "2 fields are wrong.", "fields": [{"path": "input.width", "message": "is too large"}]}
    api.will(JSONResponse({"error": "invalid_input", "details": details}, 422))
    with pytest.raises(Refused) as refused:
        await client.quote("image.generate", {"width": 10**9})
    assert str(refused.value) == "422 invalid_input: 2 fields are wrong.\n  input.width: is too large"
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    "answer", [PlainTextResponse("<html>Bad Gateway</html>", 502), PlainTextResponse("hello"), JSONResponse([1, 2])]
)
async def test_an_answer_that_is_not_the_apis_is_said_to_be_so(api: Api, client: Client, answer: Response) -> None:
    api.will(answer)
    with pytest.raises(Refused, match="is this the API's address"):
        await client.job("job_1")


async def test_a_failed_job_is_an_answer_and_no_refusal(api: Api, client: Client) -> None:
    failed = {"status": "failed", "error": "invalid_media", "failure": {"message": "broken"}}
    api.will(JSONResponse(failed))
    seen: list[dict[str, Any]] = []
    assert await client.finished("job_1", seen.append) == failed
    assert seen == [failed]


def job(status: str, sequence: int = 1, **parts: Any) -> Response:
    return JSONResponse({"jobId": "job_1", "status": status, "sequence": sequence, **parts})


@pytest.mark.parametrize("refusal", [404, 405, 429, 501])
async def test_without_a_stream_the_job_is_read_until_it_ends(api: Api, client: Client, refusal: int) -> None:
    api.on("GET", EVENTS, JSONResponse({"error": "no", "details": {"message": "no"}}, refusal))
    api.on("GET", JOBS, job("queued"), job("running", progress=0.5), job("succeeded"), job("succeeded", details={}))
    seen: list[dict[str, Any]] = []
    assert (await client.finished("job_1", seen.append))["details"] == {}
    assert [each["status"] for each in seen] == ["queued", "running", "succeeded"]
    assert api.requests[-1].query == {"jobId": "job_1", "includeDetails": "1"}
    assert len(api.seen("GET", EVENTS)) == 1


async def test_a_job_is_followed_by_its_events(api: Api, client: Client) -> None:
    api.on("GET", JOBS, job("queued", 7, progress=0), job("running", 8, progress=0), job("succeeded", 11))
    api.on(
        "GET",
        EVENTS,
        stream(
            ": heartbeat\n\n",
            'id: 8\nevent: state\ndata: {"status": "running"}\n\n: heartbeat\n\n',
            'id: 9\nevent: stage\ndata: {"stage": "qwen-image"}\n\nid: 10\nevent: progress\nda',
            'ta: {"progress": 0.5}\n\n',
            "id: 10\nevent: preview\ndata: no JSON\n\n",
            'id: 11\nevent: state\ndata: {"status": "succeeded"}\n\n',
        ),
    )
    seen: list[tuple[Any, ...]] = []
    await client.finished("job_1", lambda now: seen.append((now["status"], now.get("stage"), now.get("progress"))))
    assert seen == [
        ("queued", None, 0),
        ("running", None, 0),
        ("running", "qwen-image", 0),
        ("running", "qwen-image", 0.5),
        ("running", "qwen-image", 0.5),
        ("succeeded", None, None),
    ]
    (asked,) = api.seen("GET", EVENTS)
    assert asked.query == {"jobId": "job_1"}
    assert asked.headers["last-event-id"] == "7", "what the job itself told is not told again"
    assert asked.headers["authorization"] == "Bearer kt_key"
    assert len(api.seen("GET", JOBS)) == 4, "progress is not read from the job"


async def test_a_broken_stream_is_taken_up_behind_the_last_event(api: Api, client: Client) -> None:
    api.on("GET", JOBS, job("running", 3), job("succeeded", 9))
    api.on(
        "GET",
        EVENTS,
        stream('id: 4\nevent: progress\ndata: {"progress": 0.1}\n\n', cut=True),
        Cut(),
        busy(),
        stream('id: 5\nevent: progress\ndata: {"progress": 0.2}\n\nid: 6\nevent: progress\ndata: {"progr', cut=True),
        stream(),
        stream('id: 6\nevent: progress\ndata: {"progress": 0.3}\n\nid: 9\nevent: state\ndata: {}\n\n'),
    )
    seen: list[dict[str, Any]] = []
    await client.finished("job_1", seen.append)
    assert [each.get("progress") for each in seen] == [None, 0.1, 0.2, 0.3, None]
    assert [each.headers["last-event-id"] for each in api.seen("GET", EVENTS)] == ["3", "4", "4", "4", "5", "5"]


async def test_a_stream_that_falls_silent_is_opened_again(
    api: Api, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_SILENCE_SECONDS", 0.3)

    async def silent() -> AsyncIterator[str]:
        yield 'id: 2\nevent: progress\ndata: {"progress": 0.1}\n\n'
        await asyncio.sleep(3600)

    api.on("GET", JOBS, job("running"), job("succeeded"))
    api.on(
        "GET",
        EVENTS,
        lambda: StreamingResponse(silent(), media_type="text/event-stream"),
        stream("id: 3\nevent: state\ndata: {}\n\n"),
    )
    async with asyncio.timeout(30):
        await client.finished("job_1", lambda _: None)
    assert [each.headers["last-event-id"] for each in api.seen("GET", EVENTS)] == ["1", "2"]


async def test_nothing_more_to_come_means_that_the_job_has_ended(api: Api, client: Client) -> None:
    api.on("GET", JOBS, job("running"), job("cancelled"))
    api.on("GET", EVENTS, stream("id: 2\nevent: cancel_requested\ndata: {}\n\n"), Response(status_code=204))
    assert (await client.finished("job_1", lambda _: None))["status"] == "cancelled"


@pytest.mark.parametrize("answer", [stream("hello", type="text/html"), stream()])
async def test_a_stream_that_is_none_is_given_up(
    api: Api, client: Client, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    monkeypatch.setattr(transport, "TRIES", 3)
    api.on("GET", JOBS, job("running"), job("running"), job("succeeded"))
    api.on("GET", EVENTS, answer)
    assert (await client.finished("job_1", lambda _: None))["status"] == "succeeded"
    assert len(api.seen("GET", EVENTS)) <= 3


async def test_a_refusal_in_mid_stream_is_one(api: Api, client: Client) -> None:
    revoked = JSONResponse({"error": "unauthorized", "details": {"message": "This key was revoked."}}, 401)
    api.on("GET", JOBS, job("running"))
    api.on("GET", EVENTS, stream("id: 2\nevent: stage\ndata: {}\n\n", cut=True), revoked)
    with pytest.raises(Refused, match="401 unauthorized: This key was revoked"):
        await client.finished("job_1", lambda _: None)


async def test_a_stream_that_never_comes_back_is_unreachable(
    api: Api, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "TRIES", 3)
    api.on("GET", JOBS, job("running"))
    api.on("GET", EVENTS, Cut())
    with pytest.raises(Unreachable, match="cannot be reached"):
        await client.finished("job_1", lambda _: None)
    assert len(api.seen("GET", EVENTS)) == 3


async def test_a_rate_limit_is_waited_for(api: Api, client: Client) -> None:
    api.will(busy("0", "rate_limited", 429), job("queued"))
    assert (await client.job("job_1"))["status"] == "queued"
    api.will(busy("0", "queue_full", 429))
    with pytest.raises(Refused, match="429 queue_full"):
        await client.submit("image.generate", {})


async def test_pages_are_read_to_the_last(api: Api, client: Client) -> None:
    pages = [
        {"jobs": [{"jobId": "job_3"}], "nextCursor": "a"},
        {"jobs": [{"jobId": "job_2"}], "nextCursor": "b"},
        {"jobs": [{"jobId": "job_1"}], "nextCursor": None},
    ]
    api.will(*map(JSONResponse, pages))
    assert await client.jobs(status="failed", task=None) == pages[0]
    assert api.requests[-1].query == {"status": "failed"}
    api.will(*map(JSONResponse, pages))
    found = await client.jobs(every=True, limit=1)
    assert [each["jobId"] for each in found["jobs"]] == ["job_3", "job_2", "job_1"]
    assert [each.query for each in api.requests[-3:]] == [
        {"limit": "1"},
        {"limit": "1", "cursor": "a"},
        {"limit": "1", "cursor": "b"},
    ]


async def test_a_list_that_goes_in_a_circle_ends(api: Api, client: Client) -> None:
    api.will(JSONResponse({"jobs": [], "nextCursor": "a"}))
    with pytest.raises(Damaged, match="circle"):
        await client.jobs(every=True)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "fox.png"
    path.write_bytes(CONTENT)
    return path


def promised(api: Api) -> Response:
    return JSONResponse({"uploadUrl": f"{api.base_url}/store?signature=1", "url": "https://api.test/in/1"}, 201)


async def test_an_upload_brings_the_whole_file_and_never_the_key(api: Api, client: Client, picture: Path) -> None:
    api.on("POST", "/api/v1/media/uploads", busy(), promised(api))
    api.on("PUT", "/store", Cut(), busy(), JSONResponse({}))
    assert await client.upload(picture, "image/png", idempotency_key="k") == "https://api.test/in/1"
    asked = api.seen("POST", "/api/v1/media/uploads")
    assert {each.headers["x-idempotency-key"] for each in asked} == {"k"}
    digest = hashlib.sha256(CONTENT).hexdigest().encode()
    assert all(digest in each.body and b'"bytes":9000' in each.body.replace(b" ", b"") for each in asked)
    sent = api.seen("PUT", "/store")
    assert len(sent) == 3
    for each in sent:
        assert (each.body, each.query) == (CONTENT, {"signature": "1"})
        assert each.headers["content-type"] == "image/png"
        assert each.headers["content-length"] == str(len(CONTENT))
        assert "transfer-encoding" not in each.headers, "a presigned PUT takes no chunks"
        assert "authorization" not in each.headers


async def test_a_refused_upload_is_a_refusal(api: Api, client: Client, picture: Path) -> None:
    api.on("POST", "/api/v1/media/uploads", promised(api))
    api.on("PUT", "/store", PlainTextResponse("<Error>EntityTooLarge</Error>", 400))
    with pytest.raises(Refused, match="400"):
        await client.upload(picture, "image/png", idempotency_key="k")
    api.on("PUT", "/store", Cut())
    with pytest.raises(Unreachable, match=r"fox\.png did not get through"):
        await client.upload(picture, "image/png", idempotency_key="k")


@pytest.mark.parametrize("more", [1, -1])
async def test_a_file_that_changes_meanwhile_is_not_sent_on(
    api: Api, client: Client, picture: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    api.on("POST", "/api/v1/media/uploads", promised(api))
    api.on("PUT", "/store", JSONResponse({}))
    monkeypatch.setattr(client_module, "_measured", lambda path: (len(CONTENT) + more, "0" * 64))
    with pytest.raises(Damaged, match="changed while it was sent"):
        await client.upload(picture, "image/png", idempotency_key="k")


async def test_a_download_is_checked_and_never_sees_the_key(api: Api, client: Client, tmp_path: Path) -> None:
    api.will(Response(CONTENT))
    path = await client.download({**OUTPUT, "url": f"{api.base_url}/file"}, tmp_path / "deep" / "fox.webp")
    assert path.read_bytes() == CONTENT
    assert "kt_key" not in str(api.requests)
    assert "authorization" not in api.requests[-1].headers, (
        "S3 refuses a signed URL beside any Authorization, even empty"
    )
    assert [each.name for each in path.parent.iterdir()] == ["fox.webp"]


@pytest.mark.parametrize("status", [302, 307])
async def test_a_download_follows_to_the_store_without_the_key(
    api: Api, client: Client, tmp_path: Path, status: int
) -> None:
    api.on("GET", "/file", Response(status_code=status, headers={"Location": f"{api.base_url}/bucket/fox?signed=1"}))
    api.on("GET", "/bucket/fox", Response(CONTENT))
    path = await client.download({**OUTPUT, "url": f"{api.base_url}/file"}, tmp_path / "fox.webp")
    assert path.read_bytes() == CONTENT
    (asked,) = api.seen("GET", "/bucket/fox")
    assert asked.query == {"signed": "1"}
    assert "authorization" not in asked.headers
    assert "kt_key" not in str(api.requests)


async def test_a_download_that_goes_in_a_circle_ends(api: Api, client: Client, tmp_path: Path) -> None:
    api.on("GET", "/file", Response(status_code=307, headers={"Location": f"{api.base_url}/file"}))
    with pytest.raises(Unreachable, match=r"fox\.webp did not arrive"):
        await client.download(OUTPUT, tmp_path / "fox.webp")
    assert not list(tmp_path.iterdir())


async def test_an_upload_waits_for_its_twin(api: Api, client: Client, picture: Path) -> None:
    def conflict(**headers: str) -> JSONResponse:
        return JSONResponse({"error": "upload_conflict", "details": {"message": "no"}}, 409, headers)

    api.on("POST", "/api/v1/media/uploads", promised(api))
    api.on("PUT", "/store", conflict(**{"Retry-After": "0"}), JSONResponse({}))
    assert await client.upload(picture, "image/png", idempotency_key="k")
    api.on("PUT", "/store", conflict(), JSONResponse({}))
    with pytest.raises(Refused, match="409"):
        await client.upload(picture, "image/png", idempotency_key="k")


@pytest.mark.parametrize("sent", [b"", CONTENT[:-1], CONTENT + b"!", b"X" + CONTENT[1:]])
async def test_a_damaged_download_is_refused_and_leaves_what_was_there(
    api: Api, client: Client, tmp_path: Path, sent: bytes
) -> None:
    path = tmp_path / "fox.webp"
    path.write_bytes(b"from an earlier run")
    api.will(Response(sent))
    with pytest.raises(Damaged, match="arrived damaged"):
        await client.download(OUTPUT, path)
    assert path.read_bytes() == b"from an earlier run"
    assert list(tmp_path.iterdir()) == [path]


def half() -> Response:
    async def content() -> AsyncIterator[bytes]:
        yield CONTENT[:100]
        raise ConnectionResetError("cut")

    return StreamingResponse(content(), headers={"Content-Length": str(len(CONTENT))})


async def test_a_download_that_breaks_off_begins_again(api: Api, client: Client, tmp_path: Path) -> None:
    api.will(half, half, Response(CONTENT))
    assert (await client.download(OUTPUT, tmp_path / "fox.webp")).read_bytes() == CONTENT


async def test_a_download_that_always_breaks_off_leaves_nothing(api: Api, client: Client, tmp_path: Path) -> None:
    api.will(half)
    with pytest.raises(Unreachable, match="did not arrive"):
        await client.download(OUTPUT, tmp_path / "fox.webp")
    assert list(tmp_path.iterdir()) == []


async def test_a_deleted_output_says_so(api: Api, client: Client, tmp_path: Path) -> None:
    with pytest.raises(Gone, match="no longer kept"):
        await client.download({**OUTPUT, "url": None}, tmp_path / "fox.webp")
    assert api.requests == []


async def test_an_expired_url_says_so(api: Api, client: Client, tmp_path: Path) -> None:
    gone = {"error": "output_expired", "details": {"message": "This URL has expired; read the job again."}}
    api.will(JSONResponse(gone, 410))
    with pytest.raises(Refused, match="410 output_expired: This URL has expired"):
        await client.download(OUTPUT, tmp_path / "fox.webp")
    assert list(tmp_path.iterdir()) == []
