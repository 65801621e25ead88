"""The client against a small real server that misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from killatamata import client as client_module
from killatamata.client import Client, Damaged, Refused, Unreachable

CONTENT = b"a picture" * 1000
OUTPUT = {"url": "/file", "bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


class Server:
    """Answers what it was told to, in turn; the last answer stays. Keeps every request."""

    def __init__(self) -> None:
        self.answers: list[Response] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.base_url = ""

    def will(self, *answers: Response) -> None:
        self.answers = list(answers)

    async def answer(self, request: Request) -> Response:
        self.requests.append((request.method, str(request.url), dict(request.headers), await request.body()))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Cut(Response):
    """A connection that breaks before the answer is whole."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"100")]})
        raise ConnectionResetError("cut")


def busy(retry_after: str | None = "0", code: str = "database_unavailable") -> Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return JSONResponse({"error": code, "details": {"message": "again"}}, 503, headers)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    routes = [Route("/{path:path}", made.answer, methods=["GET", "POST", "DELETE"])]
    listening = socket.create_server(("127.0.0.1", 0))
    made.base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    config = uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off", loop="none")
    running = uvicorn.Server(config)
    # pytest's own signal handlers stay.
    running.capture_signals = nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(running.serve([listening]))
    yield made
    running.should_exit = True
    await task
    listening.close()


@pytest.fixture
async def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setattr(client_module, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(client_module, "_POLL_SECONDS", 0.01)
    async with Client(server.base_url, "kt_key") as made:
        yield made


async def test_a_submit_is_sent_again_with_the_same_key_until_it_is_accepted(server: Server, client: Client) -> None:
    server.will(
        busy(), busy(None), PlainTextResponse("Service Unavailable", 503), JSONResponse({"jobId": "job_1"}, 202)
    )
    assert await client.submit("image.generate", {"prompt": "a fox"}, priority="batch") == {"jobId": "job_1"}
    assert len(server.requests) == 4
    keys = {headers["x-idempotency-key"] for _, _, headers, _ in server.requests}
    assert len(keys) == 1
    assert len({body for *_, body in server.requests}) == 1
    assert all(headers["authorization"] == "Bearer kt_key" for _, _, headers, _ in server.requests)
    await client.submit("image.generate", {"prompt": "a fox"})
    assert server.requests[-1][2]["x-idempotency-key"] not in keys, "another submit is another job"


async def test_lost_connections_are_tried_again_under_the_same_key(server: Server, client: Client) -> None:
    server.will(Cut(), Cut(), JSONResponse({"jobId": "job_1"}, 202))
    assert (await client.submit("image.generate", {}))["jobId"] == "job_1"
    assert len({headers["x-idempotency-key"] for _, _, headers, _ in server.requests}) == 1
    assert len(server.requests) == 3


async def test_a_twin_still_under_way_is_waited_for(server: Server, client: Client) -> None:
    twin = JSONResponse({"error": "idempotency_in_progress", "details": {}}, 409, {"Retry-After": "0"})
    server.will(twin, JSONResponse({"jobId": "job_1"}, 202))
    assert (await client.submit("image.generate", {}))["jobId"] == "job_1"


async def test_retry_after_is_honoured(server: Server, client: Client) -> None:
    server.will(busy("1"), JSONResponse({"status": "queued"}))
    began = time.monotonic()
    await client.job("job_1")
    assert 1.0 <= time.monotonic() - began < 3


@pytest.mark.parametrize("retry_after", ["-5", "nan", "Wed, 21 Oct 2026 07:28:00 GMT", "", "1e9", "٣"])
async def test_a_retry_after_that_is_no_number_of_seconds_counts_as_absent(
    server: Server, client: Client, retry_after: str
) -> None:
    server.will(busy(retry_after.encode().decode("latin-1")), JSONResponse({"status": "queued"}))
    async with asyncio.timeout(5):
        assert await client.job("job_1") == {"status": "queued"}


async def test_a_server_may_not_keep_a_client_asleep_for_a_day(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_LONGEST_PAUSE_SECONDS", 0.05)
    server.will(busy("86400"), JSONResponse({"status": "queued"}))
    async with asyncio.timeout(5):
        await client.job("job_1")


async def test_a_task_that_no_fleet_runs_is_refused_at_once(server: Server, client: Client) -> None:
    server.will(busy("60", "task_unavailable"))
    with pytest.raises(Refused) as refused:
        await client.submit("video.generate", {})
    assert (refused.value.status, refused.value.code, len(server.requests)) == (503, "task_unavailable", 1)


async def test_patience_ends(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_TRIES", 3)
    server.will(busy())
    with pytest.raises(Refused, match="503 database_unavailable: again"):
        await client.job("job_1")
    assert len(server.requests) == 3
    server.will(Cut())
    with pytest.raises(Unreachable, match="cannot be reached"):
        await client.job("job_1")


async def test_a_refusal_names_the_fields(server: Server, client: Client) -> None:
    details = {"message": "2 fields are wrong.", "fields": [{"path": "input.width", "message": "is too large"}]}
    server.will(JSONResponse({"error": "invalid_input", "details": details}, 422))
    with pytest.raises(Refused) as refused:
        await client.quote("image.generate", {"width": 10**9})
    assert str(refused.value) == "422 invalid_input: 2 fields are wrong.\n  input.width: is too large"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer", [PlainTextResponse("<html>Bad Gateway</html>", 502), PlainTextResponse("hello"), JSONResponse([1, 2])]
)
async def test_an_answer_that_is_not_the_apis_is_said_to_be_so(
    server: Server, client: Client, answer: Response
) -> None:
    server.will(answer)
    with pytest.raises(Refused, match="is this the API's address"):
        await client.job("job_1")


async def test_a_failed_job_is_an_answer_and_no_refusal(server: Server, client: Client) -> None:
    failed = {"status": "failed", "error": "invalid_media", "failure": {"message": "broken"}}
    server.will(JSONResponse(failed))
    seen: list[dict[str, Any]] = []
    assert await client.finished("job_1", seen.append) == failed
    assert seen == [failed]


async def test_a_job_is_followed_to_its_end_and_read_once_more_with_details(server: Server, client: Client) -> None:
    states = [{"status": "queued"}, {"status": "running", "progress": 0.5}, {"status": "succeeded"}]
    server.will(*map(JSONResponse, states), JSONResponse({"status": "succeeded", "details": {}}))
    seen: list[dict[str, Any]] = []
    assert (await client.finished("job_1", seen.append))["details"] == {}
    assert seen == states
    assert server.requests[-1][1].endswith("/api/v1/media/jobs?jobId=job_1&includeDetails=1")


async def test_a_download_is_checked_and_never_sees_the_key(server: Server, client: Client, tmp_path: Path) -> None:
    server.will(Response(CONTENT))
    path = await client.download({**OUTPUT, "url": f"{server.base_url}/file"}, tmp_path / "deep" / "fox.webp")
    assert path.read_bytes() == CONTENT
    assert "kt_key" not in str(server.requests)
    assert [each.name for each in path.parent.iterdir()] == ["fox.webp"]


@pytest.mark.parametrize("sent", [b"", CONTENT[:-1], CONTENT + b"!", b"X" + CONTENT[1:]])
async def test_a_damaged_download_is_refused_and_leaves_what_was_there(
    server: Server, client: Client, tmp_path: Path, sent: bytes
) -> None:
    path = tmp_path / "fox.webp"
    path.write_bytes(b"from an earlier run")
    server.will(Response(sent))
    with pytest.raises(Damaged, match="arrived damaged"):
        await client.download(OUTPUT, path)
    assert path.read_bytes() == b"from an earlier run"
    assert list(tmp_path.iterdir()) == [path]


async def test_a_download_that_breaks_off_leaves_nothing(server: Server, client: Client, tmp_path: Path) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield CONTENT[:100]
        raise ConnectionResetError("cut")

    server.will(StreamingResponse(half(), headers={"Content-Length": str(len(CONTENT))}))
    with pytest.raises(Unreachable, match="did not arrive"):
        await client.download(OUTPUT, tmp_path / "fox.webp")
    assert list(tmp_path.iterdir()) == []


async def test_an_expired_url_says_so(server: Server, client: Client, tmp_path: Path) -> None:
    gone = {"error": "output_expired", "details": {"message": "This URL has expired; read the job again."}}
    server.will(JSONResponse(gone, 410))
    with pytest.raises(Refused, match="410 output_expired: This URL has expired"):
        await client.download(OUTPUT, tmp_path / "fox.webp")
    assert list(tmp_path.iterdir()) == []
