"""Inline media over a real database and store: what lands where."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from api.services import Services
from jobs import pools
from tests.serving import FOX, serving

JOBS = "/api/v1/media/jobs"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400


async def test_no_base64_reaches_the_database(database_url: str, tmp_path: Path) -> None:
    encoded = base64.b64encode(PNG).decode()
    wrapped = "\r\n".join(encoded[at : at + 76] for at in range(0, len(encoded), 76))
    images = [{"dataBase64": wrapped, "mimeType": "image/png"}, {"dataBase64": f"data:image/png;base64,{encoded}"}]
    digest = hashlib.sha256(PNG)
    async with serving(database_url, tmp_path) as served:
        database, store = served.services.database, served.services.store
        await pools.declare(database, frozenset({"qwen-image", "qwen-image-edit"}))
        answer = await served.client.post(
            JOBS, json={**FOX, "input": {"prompt": "x", "referenceImages": images}}, headers={"Idempotency-Key": "k"}
        )
        assert answer.status_code == 202, answer.text
        row = await database.fetch_row("SELECT * FROM job")
        assert row is not None
        named = {"sha256": digest.hexdigest(), "mimeType": "image/png", "bytes": len(PNG)}
        assert row["effective_input"]["referenceImages"] == [named, named]
        assert len(json.dumps(dict(row), default=str)) < 3000
        assert (
            await database.fetch_value("SELECT sha256 FROM job_input WHERE job_id = $1", row["id"]) == digest.digest()
        )
        assert store.read(f"in/{digest.hexdigest()}") == PNG
        read = await served.client.get(JOBS, params={"jobId": answer.json()["jobId"], "includeDetails": "1"})
        assert read.json()["details"]["effectiveInput"] == answer.json()["effectiveInput"]


def with_image(content: bytes, **changes: Any) -> dict[str, Any]:
    """A submit with one inline image."""
    image = {"dataBase64": base64.b64encode(content).decode(), "mimeType": "image/png"}
    return {**FOX, "input": {"prompt": "x", "referenceImages": [image]}, **changes}


async def kept(services: Services) -> tuple[list[str], int]:
    """What the store has of inputs, and how many rows remember one."""
    rows = await services.database.fetch_value("SELECT count(*) FROM input")
    return sorted(services.store.keys("in/")), rows


@pytest.mark.parametrize(
    ("spoil", "status", "error"),
    [
        ("UPDATE wallet SET available = 1", 402, "insufficient_balance"),
        ("UPDATE wallet SET available = 0, debt = 5", 402, "insufficient_balance"),
        ("UPDATE account SET paused_until = clock_timestamp() + interval '9 s'", 429, "rate_limited"),
        ("UPDATE pool SET retired = true", 503, "task_unavailable"),
        ("WITH gone AS (UPDATE pool SET retired = true) UPDATE wallet SET available = 0", 503, "task_unavailable"),
    ],
)
async def test_nothing_is_stored_for_a_request_that_cannot_become_a_job(
    spoil: str, status: int, error: str, database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url, tmp_path) as served:
        database = served.services.database
        await pools.declare(database, frozenset({"qwen-image", "qwen-image-edit"}))
        await database.execute(spoil)
        answer = await served.client.post(JOBS, json=with_image(PNG), headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["error"]) == (status, error)
        assert ("topUpUrl" in answer.json()["details"]) == (status == 402)
        assert await kept(served.services) == ([], 0)


async def test_nothing_is_stored_when_the_queue_is_full(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        await pools.declare(served.services.database, frozenset({"qwen-image", "qwen-image-edit"}))
        await served.submit()
        await served.services.database.execute("UPDATE account SET queue_limit = 1")
        answer = await served.client.post(JOBS, json=with_image(PNG))
        assert (answer.status_code, answer.json()["error"]) == (429, "queue_full")
        assert await kept(served.services) == ([], 0)


async def test_an_account_sends_so_many_bytes_inside_requests_a_day(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, inline_bytes_a_day=len(PNG) * 2) as served:
        database, client = served.services.database, served.client
        await pools.declare(database, frozenset({"qwen-image", "qwen-image-edit"}))
        for content in (PNG, PNG, PNG[:-1] + b"2"):
            assert (await client.post(JOBS, json=with_image(content))).status_code == 202
        refused = await client.post(JOBS, json=with_image(PNG[:-1] + b"3"), headers={"Idempotency-Key": "k"})
        assert (refused.status_code, refused.json()["error"]) == (429, "rate_limited")
        assert str(2 * len(PNG)) in refused.json()["details"]["message"]
        assert 23 * 3600 < int(refused.headers["Retry-After"]) <= 24 * 3600
        assert (await kept(served.services))[1] == 2
        assert (await client.post(JOBS, json=with_image(PNG))).status_code == 202, "it is stored already"
        async with await served.another() as other:
            assert (await other.post(JOBS, json=with_image(PNG[:-1] + b"3"))).status_code == 202
        await database.execute("UPDATE inline_bytes SET hour = hour - interval '1 day'")
        later = await client.post(JOBS, json=with_image(PNG[:-1] + b"4"), headers={"Idempotency-Key": "k"})
        assert later.status_code == 202
        assert (
            await database.fetch_value("SELECT count(*) FROM inline_bytes WHERE account_id = $1", served.account) == 1
        )


async def test_requests_at_once_share_the_bytes_of_a_day(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, inline_bytes_a_day=len(PNG) * 3) as served:
        await pools.declare(served.services.database, frozenset({"qwen-image", "qwen-image-edit"}))
        answers = await asyncio.gather(
            *(served.client.post(JOBS, json=with_image(PNG[:-1] + bytes([each]))) for each in range(8))
        )
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 5


async def test_a_replay_needs_no_money_and_stores_nothing_of_another_body(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        database, headers = served.services.database, {"Idempotency-Key": "k"}
        await pools.declare(database, frozenset({"qwen-image", "qwen-image-edit"}))
        first = await served.client.post(JOBS, json=with_image(PNG), headers=headers)
        await database.execute("UPDATE wallet SET available = 0")
        again = await served.client.post(JOBS, json=with_image(PNG), headers=headers)
        assert (again.status_code, again.json()["jobId"]) == (202, first.json()["jobId"])
        before = await kept(served.services)
        other = await served.client.post(JOBS, json=with_image(PNG[:-1] + b"5"), headers=headers)
        assert (other.status_code, other.json()["error"]) == (409, "idempotency_conflict")
        assert await kept(served.services) == before
