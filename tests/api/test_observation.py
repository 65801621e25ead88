from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from api.observation import Observation
from api.services import Services
from core.ids import encode
from core.metrics import REGISTRY
from tests.api.doubles import ACCOUNT, DatabaseDouble


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with capture_logs([merge_contextvars]) as captured:
        yield captured


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"killatamata_{name}", labels) or 0.0


def requests(lines: list[Any]) -> list[tuple[str, str, str, int]]:
    told = [line for line in lines if line["event"] == "request"]
    return [(line["log_level"], line["method"], line["route"], line["status"]) for line in told]


def test_writes_and_refusals_are_told_and_good_reads_whispered(client: TestClient, lines: list[Any]) -> None:
    client.get("/health")
    client.get("/api/v1/balance")
    client.options("/api/v1/balance")
    client.post("/api/v1/keys", json={"label": "x"})
    client.post("/api/v1/keys", json={})
    client.get("/api/v1/balance", headers={"x-api-key": "no"})
    client.get("/objects/a/b/c")
    client.get("/a/stranger's/path?secret=1")
    client.put("/api/v1/balance")
    assert requests(lines) == [
        ("debug", "GET", "/health", 200),
        ("debug", "GET", "/api/v1/balance", 200),
        ("debug", "OPTIONS", "/api/v1/balance", 204),
        ("info", "POST", "/api/v1/keys", 201),
        ("info", "POST", "/api/v1/keys", 422),
        ("info", "GET", "/api/v1/balance", 401),
        ("info", "GET", "/objects/{key:path}", 403),
        ("info", "GET", "unmatched", 404),
        ("info", "PUT", "/api/v1/balance", 405),
    ]
    assert "secret" not in str(lines)


def test_a_line_names_the_request_and_the_account(client: TestClient, lines: list[Any]) -> None:
    client.get("/api/v1/balance", headers={"X-Request-Id": "trace-1"})
    client.get("/api/v1/balance", headers={"X-Request-Id": "trace-2", "x-api-key": "no"})
    named, nameless = [line for line in lines if line["event"] == "request"]
    assert (named["request_id"], named["account"]) == ("trace-1", encode("acct", ACCOUNT))
    assert 0 < named["seconds"] < 60
    assert nameless["request_id"] == "trace-2"
    assert "account" not in nameless


def test_a_fault_is_counted_and_told_as_500(client: TestClient, database: DatabaseDouble, lines: list[Any]) -> None:
    before = value("http_requests_total", method="GET", route="/api/v1/balance", code="500")
    database.failure = RuntimeError("boom")
    client.get("/api/v1/balance")
    assert requests(lines) == [("info", "GET", "/api/v1/balance", 500)]
    assert value("http_requests_total", method="GET", route="/api/v1/balance", code="500") == before + 1


def test_strange_methods_and_paths_make_no_new_labels(client: TestClient) -> None:
    def series() -> int:
        return sum(len(family.samples) for family in REGISTRY.collect() if "http" in family.name)

    client.request("BREW-0", "/pot/0")
    before = series()
    for number in range(1, 20):
        client.request(f"BREW-{number}", f"/pot/{number}")
    assert series() == before
    assert value("http_requests_total", method="other", route="unmatched", code="404") >= 20


def test_bodies_are_counted_in_bytes(services: Services, client: TestClient) -> None:
    def both() -> tuple[float, float]:
        keys = {"route": "/api/v1/keys"}
        return value("http_request_body_bytes_total", **keys), value("http_response_body_bytes_total", **keys)

    received, sent = both()
    answer = client.post("/api/v1/keys", content=b'{"label": "x"}', headers={"Content-Type": "application/json"})
    assert both() == (received + 14, sent + len(answer.content))
    client.head("/api/v1/keys")
    assert both() == (received + 14, sent + len(answer.content))


async def observed(app: Any, method: str = "GET") -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    await Observation(app)({"type": "http", "method": method, "state": {}}, receive, send)


async def test_in_flight_comes_back_to_nothing_whatever_happens() -> None:
    before, seen = value("http_requests_in_flight"), []

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        seen.append(value("http_requests_in_flight"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(3600)

    async def hung_up(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.disconnect"
        raise ClientDisconnect

    running = asyncio.create_task(observed(hangs))
    while not seen:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(ClientDisconnect):
        await observed(hung_up)
    assert (seen, value("http_requests_in_flight")) == ([before + 1], before)


async def test_a_stream_is_timed_until_it_begins_not_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("api.observation.time", SimpleNamespace(perf_counter=lambda: now))

    def total() -> float:
        return value("http_request_duration_seconds_sum", method="GET", route="unmatched")

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        nonlocal now
        now += 2
        await send({"type": "http.response.start", "status": 200, "headers": []})
        now += 1000
        await send({"type": "http.response.body", "body": b"x"})

    before = total()
    await observed(stream)
    assert total() == pytest.approx(before + 2)
