"""503 when too much waits: what a caller gets, and what of an accepted job it gets all the same."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from jobs import pools, snapshot
from tests.serving import FOX, POOL, Served, serving

JOBS = "/api/v1/media/jobs"


@pytest.fixture(autouse=True)
def read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "FRESH_SECONDS", 0.0)


async def full(served: Served) -> None:
    """More than the pool's limit waits."""
    await pools.declare(served.services.database, frozenset({POOL}), {POOL: 100})
    await served.services.database.execute("UPDATE queue SET cost = 1000")


async def test_a_full_pool_is_503_and_says_when_to_come_again(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        await served.submit()
        before = (await served.client.get("/api/v1/balance")).json()
        await full(served)
        refused = await served.client.post(JOBS, json=FOX, headers={"Idempotency-Key": "new"})
        assert (refused.status_code, refused.json()["error"]) == (503, "pool_overloaded")
        assert refused.headers["Retry-After"] == "150", "a thousand seconds on four slots, a hundred of which may wait"
        assert "in 150 seconds, with the same idempotency key" in refused.json()["details"]["message"]
        assert (await served.client.get("/api/v1/balance")).json() == before
        assert (await served.client.post("/api/v1/media/quotes", json=FOX)).status_code == 200
        await served.services.database.execute("UPDATE queue SET cost = 1")
        accepted = await served.client.post(JOBS, json=FOX, headers={"Idempotency-Key": "new"})
        assert (accepted.status_code, "Idempotency-Replayed" in accepted.headers) == (202, False)


async def test_a_replay_of_an_accepted_job_is_answered_however_much_waits(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        first = await served.client.post(JOBS, json=FOX, headers={"Idempotency-Key": "k"})
        await full(served)
        again = await served.client.post(JOBS, json=FOX, headers={"Idempotency-Key": "k"})
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
        assert again.json()["jobId"] == first.json()["jobId"]
        other = await served.client.post(JOBS, json=FOX | {"priority": "batch"}, headers={"Idempotency-Key": "k"})
        assert (other.status_code, other.json()["error"]) == (409, "idempotency_conflict")


async def test_nothing_is_stored_for_a_refused_request(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        editing, database = "qwen-image-edit", served.services.database
        await pools.declare(database, frozenset({POOL, editing}), {editing: 1})
        image = {"dataBase64": base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(500)).decode(), "mimeType": "image/png"}
        edit = {"task": "image.edit", "input": {"prompt": "x", "sourceImage": image}}
        assert (await served.client.post(JOBS, json=edit)).status_code == 202
        stored = list(served.services.store.keys("in/"))
        await database.execute("UPDATE queue SET cost = 1000")
        image["dataBase64"] = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(600)).decode()
        refused = await served.client.post(JOBS, json=edit)
        assert (refused.status_code, refused.json()["error"]) == (503, "pool_overloaded")
        assert list(served.services.store.keys("in/")) == stored
        assert len(stored) == 1
        assert (await served.client.post(JOBS, json=FOX)).status_code == 202, "another pool has room"


async def test_the_refusal_is_described(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        described = (await served.client.get("/openapi.json")).json()["paths"][JOBS]["post"]["responses"]["503"]
        assert "pool_overloaded" in str(described)
