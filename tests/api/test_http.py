from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncpg
import pytest
from starlette.testclient import TestClient

from api import looks
from api.app import application
from api.middleware import RequestContext
from api.rate_limits import RateLimits
from api.services import Services
from core.settings import Settings
from storage import StoreUnavailable
from tests.api.doubles import KEY, OTHER_KEY, DatabaseDouble

PATHS = ["/health", "/openapi.json", "/api/v1/balance", "/api/v1/keys", "/api/v1/media/jobs", "/objects/a/b"]


def test_every_answer_names_the_request_and_forbids_caching(client: TestClient) -> None:
    answers = [client.get("/api/v1/health"), client.get("/nowhere"), client.get("/api/v1/balance")]
    answers.append(client.put("/api/v1/balance"))
    names = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(names)) == len(names)
    assert all(name.startswith("req_") for name in names)
    assert [answer.headers["cache-control"] for answer in answers] == ["no-store"] * len(answers)
    assert [answer.headers["access-control-allow-origin"] for answer in answers] == ["*"] * len(answers)


@pytest.mark.parametrize(
    ("given", "kept"), [("trace-1.a:b_c", True), ("x" * 128, True), ("x" * 129, False), ("-a", False), ("a b", False)]
)
def test_a_sane_request_id_is_kept(client: TestClient, given: str, kept: bool) -> None:
    answer = client.get("/health", headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) is kept


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1", "/api/v1/balance/", "/api/v1//balance", "/objects"])
def test_an_unknown_path_is_404_in_our_shape(client: TestClient, path: str) -> None:
    answer = client.get(path, follow_redirects=False)
    assert answer.status_code == 404
    assert answer.json()["error"] == "not_found"
    assert client.options(path).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/v1/media/jobs", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("DELETE", "/api/v1/keys", "GET, HEAD, OPTIONS, POST"),
        ("GET", "/api/v1/keys/revoke", "OPTIONS, POST"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("BREW", "/api/v1/balance", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(client: TestClient, method: str, path: str, allow: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["error"] == "method_not_allowed"
    assert answer.headers["allow"] == allow
    assert allow in answer.json()["details"]["message"]


@pytest.mark.parametrize("path", PATHS)
def test_every_route_answers_options_without_a_key(client: TestClient, path: str) -> None:
    headers = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET", "x-api-key": ""}
    answer = client.options(path, headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert "GET" in answer.headers["access-control-allow-methods"]
    assert "X-Idempotency-Key" in answer.headers["access-control-allow-headers"]
    assert "Idempotency-Replayed" in answer.headers["access-control-expose-headers"]


def test_head_is_get(client: TestClient) -> None:
    assert client.head("/api/v1/balance").status_code == 200
    assert client.head("/api/v1/balance", headers={"x-api-key": "no"}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer " + "x" * 10_000},
        {"Authorization": b"Bearer \xff\xfe"},
        {"x-api-key": "nonsense"},
        {"x-api-key": KEY + "x"},
        {"Authorization": f"Bearer {KEY}", "x-api-key": OTHER_KEY},
        {"Authorization": f"Basic {KEY}", "x-api-key": KEY},
    ],
)
def test_a_bad_credential_is_401(services: Services, client: TestClient, headers: dict[str, str | bytes]) -> None:
    del client.headers["x-api-key"]
    answer = client.get("/api/v1/balance", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"] == "unauthorized"
    assert KEY not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer   {KEY} "},
        {"x-api-key": KEY},
        {"Authorization": f"Bearer {KEY}", "x-api-key": KEY},
    ],
)
def test_a_key_is_taken_either_way(client: TestClient, headers: dict[str, str]) -> None:
    del client.headers["x-api-key"]
    assert client.get("/api/v1/balance", headers=headers).status_code == 200


def test_two_authorization_headers_that_differ_are_401(client: TestClient) -> None:
    del client.headers["x-api-key"]
    headers = [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {OTHER_KEY}")]
    assert client.get("/api/v1/balance", headers=headers).status_code == 401


def test_the_key_is_asked_for_before_anything_is_read(client: TestClient) -> None:
    answer = client.post("/api/v1/media/jobs?nonsense=1", content=b"{", headers={"x-api-key": "no"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionRefusedError("no"),
        TimeoutError(),
        asyncpg.InterfaceError("the database is not open"),
        asyncpg.CannotConnectNowError("starting up"),
        asyncpg.AdminShutdownError("terminating"),
        asyncio.IncompleteReadError(b"", 1),
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/balance", "/api/v1/health?deep=1"])
def test_an_absent_database_is_503(
    client: TestClient, database: DatabaseDouble, failure: Exception, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "FRESH_SECONDS", 0.0)
    database.failure = failure
    answer = client.get(path)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["error"] == "database_unavailable"
    assert "idempotency key" in answer.json()["details"]["message"]
    database.failure = None
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "failure", [RuntimeError("secret of ours"), asyncpg.DataError("secret of ours"), KeyError("x")]
)
def test_a_fault_of_ours_is_500_and_tells_nothing(
    client: TestClient, database: DatabaseDouble, failure: Exception
) -> None:
    database.failure = failure
    answer = client.get("/api/v1/balance", headers={"X-Request-Id": "trace-1"})
    assert answer.status_code == 500
    assert answer.json()["error"] == "internal_error"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "trace-1"
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_a_fault_after_the_first_byte_cuts_the_connection() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        raise RuntimeError("halfway")

    sent: list[object] = []

    async def keep(message: object) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(RuntimeError, match="halfway"):
        await RequestContext(app)(scope, None, keep)  # type: ignore[arg-type]
    assert len(sent) == 1


def test_health_needs_no_database_and_no_key(client: TestClient, database: DatabaseDouble) -> None:
    database.failure = RuntimeError("must not be touched")
    del client.headers["x-api-key"]
    for path in ("/health", "/api/v1/health", "/health?deep=0"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_deep_health_reports_each_part(
    client: TestClient, services: Services, database: DatabaseDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "FRESH_SECONDS", 0.0)
    parts = {"database": "ok", "storage": "ok", "dispatcher": "absent", "ledger": "unchecked"}
    assert client.get("/health?deep=1").json() == {"status": "ok", "parts": parts}

    def away(key: str) -> None:
        raise StoreUnavailable("SlowDown", "wait")

    with monkeypatch.context() as patch:
        patch.setattr(services.store, "stat", away)
        answer = client.get("/health?deep=1")
        assert (answer.status_code, answer.json()["error"]) == (503, "storage_unavailable")
        assert answer.json()["details"]["parts"] == {"database": "ok", "storage": "unavailable"}
    database.failure = ConnectionRefusedError()
    assert client.get("/health?deep=1").json()["details"]["parts"] == {"database": "unavailable"}


def test_deep_looks_ask_the_parts_once_in_a_while(
    services: Services, database: DatabaseDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "FRESH_SECONDS", 3600.0)
    asked = []

    async def fetch_value(query: str) -> bool:
        asked.append(query)
        database._used()
        return True

    monkeypatch.setattr(database, "fetch_value", fetch_value)
    database.failure = ConnectionRefusedError()
    with TestClient(application(services), client=("127.0.0.1", 1)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(looks, "FRESH_SECONDS", 0.0)
            client.get("/health?deep=1")
        answers = [client.get("/health?deep=1") for _ in range(50)]
        assert {answer.status_code for answer in answers} == {503}
        assert answers[-1].json()["details"]["parts"] == {"database": "unavailable"}
        assert len(asked) == 2


@pytest.mark.parametrize(("peer", "counted"), [("203.0.113.7", True), ("127.0.0.1", False), ("::1", False)])
def test_deep_looks_of_strangers_are_counted(services: Services, peer: str, counted: bool) -> None:
    settings = Settings(**(services.settings.model_dump() | {"requests_per_minute_without_key": 3}))
    limited = replace(services, settings=settings, rate_limits=RateLimits(settings))
    with TestClient(application(limited), client=(peer, 1)) as client:
        statuses = [client.get("/health?deep=1").status_code for _ in range(5)]
        assert statuses == ([200] * 3 + [429] * 2 if counted else [200] * 5)
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("query", "path", "nearest"),
    [
        ("deeep=1", "deeep", "deep"),
        ("deep=perhaps", "deep", None),
        ("deep=", "deep", None),
        ("deep=1&deep=1", "deep", None),
        ("%00=1", '["\\u0000"]', None),
        ("deep=1&verbose=1", "verbose", None),
    ],
)
def test_a_bad_query_is_422(client: TestClient, query: str, path: str, nearest: str | None) -> None:
    answer = client.get(f"/health?{query}")
    assert answer.status_code == 422
    problem = answer.json()["details"]["fields"][0]
    assert (problem["path"], problem.get("nearest")) == (path, nearest)
