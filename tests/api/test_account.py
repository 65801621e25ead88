from __future__ import annotations

import pytest
from starlette.testclient import TestClient


def test_the_balance_is_what_is_owned_held_and_free(client: TestClient) -> None:
    assert client.get("/api/v1/balance").json() == {
        "balanceUsd": "9.500000",
        "balanceMicros": 9_500_000,
        "heldUsd": "0.500000",
        "availableUsd": "9.000000",
    }


def test_a_key_is_made_listed_and_revoked(client: TestClient) -> None:
    made = client.post("/api/v1/keys", json={"label": "Agent Worker A"})
    assert made.status_code == 201
    assert made.json() == {
        "apiKey": "kt_made0000_secret",
        "keyPrefix": "made0000",
        "label": "Agent Worker A",
        "createdAt": "2026-11-23T10:00:00.123Z",
    }
    listed = client.get("/api/v1/keys").json()
    expected = {
        "keyPrefix": "made0000",
        "label": "Agent Worker A",
        "createdAt": "2026-11-23T10:00:00.123Z",
        "lastUsedAt": None,
        "revokedAt": None,
    }
    assert listed == {"keys": [expected]}
    revoked = client.post("/api/v1/keys/revoke", json={"keyPrefix": "kt_made0000"})
    assert revoked.json() == expected | {"revokedAt": "2026-11-23T10:00:00.123Z"}


@pytest.mark.parametrize(
    ("path", "body", "problem", "nearest"),
    [
        ("keys", {}, "label", None),
        ("keys", {"label": None}, "label", None),
        ("keys", {"label": ""}, "label", None),
        ("keys", {"label": "x" * 101}, "label", None),
        ("keys", {"label": 1}, "label", None),
        ("keys", {"label": ["x"]}, "label", None),
        ("keys", {"label": "x", "lable": "y"}, "lable", "label"),
        ("keys", {"label": "x", "idToken": "eyJ"}, "idToken", None),
        ("keys/revoke", {}, "keyPrefix", None),
        ("keys/revoke", {"prefix": "abcde"}, "keyPrefix", None),
        ("keys/revoke", {"keyPrefix": 12345}, "keyPrefix", None),
        ("keys/revoke", {"keyPrefix": "abcde", "keyprefix": "abcde"}, "keyprefix", "keyPrefix"),
    ],
)
def test_a_bad_body_is_422_with_its_field(
    client: TestClient, path: str, body: object, problem: str, nearest: str | None
) -> None:
    answer = client.post(f"/api/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_input")
    found = {each["path"]: each for each in answer.json()["details"]["fields"]}
    assert problem in found
    assert found[problem].get("nearest") == nearest


def test_null_for_an_optional_field_is_none(client: TestClient) -> None:
    assert client.post("/api/v1/keys", json={"label": "x", "idempotencyKey": None}).status_code == 201
