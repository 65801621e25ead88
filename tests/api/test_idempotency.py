from __future__ import annotations

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from api.idempotency import key
from api.services import Services
from core.errors import InvalidInput
from tests.api.doubles import OTHER_KEY, DatabaseDouble

PATH = "/api/v1/keys"


@pytest.mark.parametrize(
    ("headers", "in_body", "found"),
    [
        ([], None, None),
        ([("X-Idempotency-Key", "a")], None, "a"),
        ([("Idempotency-Key", "a")], None, "a"),
        ([], "a", "a"),
        ([("X-Idempotency-Key", "a"), ("Idempotency-Key", "a")], "a", "a"),
        ([("X-Idempotency-Key", "x" * 255)], None, "x" * 255),
        ([("X-Idempotency-Key", "job 001 ~!")], None, "job 001 ~!"),
    ],
)
def test_the_key_is_found(headers: list[tuple[str, str]], in_body: str | None, found: str | None) -> None:
    assert key(Headers(raw=[(name.lower().encode(), value.encode()) for name, value in headers]), in_body) == found


@pytest.mark.parametrize(
    ("headers", "in_body", "path"),
    [
        ([("X-Idempotency-Key", "a")], "b", "idempotencyKey"),
        ([("X-Idempotency-Key", "a"), ("Idempotency-Key", "b")], None, "idempotencyKey"),
        ([("X-Idempotency-Key", "a"), ("X-Idempotency-Key", "b")], None, "idempotencyKey"),
        ([("X-Idempotency-Key", "")], None, "X-Idempotency-Key"),
        ([("X-Idempotency-Key", "x" * 256)], None, "X-Idempotency-Key"),
        ([("Idempotency-Key", "tab\there")], None, "Idempotency-Key"),
        ([("X-Idempotency-Key", "clé")], None, "X-Idempotency-Key"),
        ([], "line\nfeed", "idempotencyKey"),
        ([], "", "idempotencyKey"),
    ],
)
def test_a_bad_key_is_refused(headers: list[tuple[str, str]], in_body: str | None, path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        key(Headers(raw=[(name.lower().encode(), value.encode()) for name, value in headers]), in_body)
    assert caught.value.fields[0].path == path


@pytest.mark.parametrize("value", [1, True, [], {}, "", "x" * 256, "a\nb"])
def test_a_bad_key_in_the_body_is_422(client: TestClient, value: object) -> None:
    answer = client.post(PATH, json={"label": "x", "idempotencyKey": value})
    assert answer.status_code == 422
    assert answer.json()["details"]["fields"][0]["path"] == "idempotencyKey"


def test_the_first_answer_comes_again_without_its_secret(client: TestClient, services: Services) -> None:
    first = client.post(PATH, json={"label": "x"}, headers={"X-Idempotency-Key": "k"})
    again = client.post(PATH, json={"idempotencyKey": "k", "label": "x"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert first.json()["apiKey"].startswith("kt_")
    assert again.json() == first.json() | {"apiKey": None}
    assert len(services.keys.made) == 1  # type: ignore[attr-defined]


def test_another_body_another_account_another_route(client: TestClient, services: Services) -> None:
    with_key = {"X-Idempotency-Key": "k"}
    assert client.post(PATH, json={"label": "x"}, headers=with_key).status_code == 201
    conflict = client.post(PATH, json={"label": "y"}, headers=with_key)
    assert (conflict.status_code, conflict.json()["error"]) == (409, "idempotency_conflict")
    assert client.post(PATH, json={"label": "y"}, headers=with_key | {"x-api-key": OTHER_KEY}).status_code == 201
    assert client.post(f"{PATH}/revoke", json={"keyPrefix": "made0000"}, headers=with_key).status_code == 200


def test_a_refusal_frees_the_key(client: TestClient, database: DatabaseDouble) -> None:
    with_key = {"X-Idempotency-Key": "k"}
    assert client.post(f"{PATH}/revoke", json={"keyPrefix": "none0"}, headers=with_key).status_code == 404
    assert client.post(f"{PATH}/revoke", json={"keyPrefix": ""}, headers=with_key).status_code == 404
    assert database.records == {}


def test_without_a_key_every_request_is_a_new_one(client: TestClient) -> None:
    one, two = (client.post(PATH, json={"label": "x"}).json()["keyPrefix"] for _ in range(2))
    assert one != two
