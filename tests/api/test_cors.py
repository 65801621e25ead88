from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.app import OPERATIONS
from api.cors import ALLOWED_HEADERS, EXPOSED_HEADERS
from api.routing import Operation

PREFLIGHT = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET", "x-api-key": ""}
PATHS = sorted({re.sub(r"{.*}", "a", path) for each in OPERATIONS for path in (each.path, *each.aliases)})


def names(text: str) -> set[str]:
    return set(text.split(", "))


@pytest.mark.parametrize("path", PATHS)
def test_every_path_answers_options_without_a_key(client: TestClient, path: str) -> None:
    answer = client.options(path, headers=PREFLIGHT)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["access-control-allow-methods"] == answer.headers["allow"]
    assert names(answer.headers["access-control-allow-headers"]) == names(ALLOWED_HEADERS)
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize("each", OPERATIONS, ids=lambda each: each.name)
def test_options_names_the_methods_that_answer(client: TestClient, each: Operation) -> None:
    allowed = names(client.options(re.sub(r"{.*}", "a", each.path), headers=PREFLIGHT).headers["allow"])
    assert {each.method, "OPTIONS"} <= allowed
    assert ("HEAD" in allowed) is ("GET" in allowed)


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/objects/a"])
def test_head_answers_wherever_get_does(client: TestClient, path: str) -> None:
    if "GET" not in names(client.options(path).headers["allow"]):
        assert client.head(path).status_code == 405
        return
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_a_page_may_learn_that_a_path_is_unknown(client: TestClient) -> None:
    asked = client.options("/api/v1/nowhere", headers=PREFLIGHT)
    assert asked.status_code == 204
    assert {"GET", "POST", "DELETE"} <= names(asked.headers["access-control-allow-methods"])
    told = client.get("/api/v1/nowhere", headers={"Origin": "https://page.example"})
    assert (told.status_code, told.headers["access-control-allow-origin"]) == (404, "*")


def test_an_options_that_no_browser_sends_finds_nothing_there(client: TestClient) -> None:
    assert client.options("/api/v1/nowhere").status_code == 404


@pytest.mark.parametrize(
    ("path", "status"), [("/api/v1/balance", 401), ("/api/v1/media/jobs", 401), ("/objects/a", 403), ("/nowhere", 404)]
)
def test_a_page_may_read_every_refusal(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path, headers={"Origin": "https://page.example", "x-api-key": "no"})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == "*"
    assert names(answer.headers["access-control-expose-headers"]) == names(EXPOSED_HEADERS)


def test_the_documented_headers_may_pass() -> None:
    sent = {"Authorization", "x-api-key", "X-Idempotency-Key", "Idempotency-Key", "Prefer", "Last-Event-ID", "Range"}
    assert sent | {"Content-Type", "X-Request-Id", "PAYMENT-SIGNATURE"} <= names(ALLOWED_HEADERS)
    read = {"X-Request-Id", "Location", "Idempotency-Replayed", "Retry-After", "RateLimit", "RateLimit-Policy", "ETag"}
    read |= {"WWW-Authenticate", "Preference-Applied", "Deprecation", "Sunset", "Content-Disposition", "Allow"}
    assert read | {"PAYMENT-REQUIRED", "PAYMENT-RESPONSE", "Accept-Ranges", "Content-Range"} <= names(EXPOSED_HEADERS)


def test_no_handler_answers_a_header_that_pages_cannot_read() -> None:
    safe = {"Cache-Control", "Content-Type", "X-Content-Type-Options", "Content-Security-Policy"}
    written = {
        name
        for module in (Path(__file__).parents[2] / "api").glob("*.py")
        for name in re.findall(r'"([A-Z][A-Za-z]+(?:-[A-Z][A-Za-z]+)+)": ', module.read_text())
        if not name.startswith("Access-Control-")
    }
    assert written
    # Those of requests stand in operations, with their descriptions.
    assert written - safe - names(ALLOWED_HEADERS) <= names(EXPOSED_HEADERS)
