"""Uploads over a real database: what is promised, to whom, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from core.clock import now
from tests.serving import Served, serving

UPLOADS = "/api/v1/media/uploads"
PICTURE = {"mimeType": "image/png", "bytes": 3}
DIGEST = "AB" * 32


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(database_url, tmp_path, uploads_most=3, uploads_bytes_most=600_000_000) as made:
        yield made


async def test_an_upload_gives_a_place_to_send_to_and_a_name(served: Served) -> None:
    answer = await served.client.post(UPLOADS, json={**PICTURE, "sha256": DIGEST})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert set(made) == {"uploadUrl", "url", "expiresAt"}
    ends = datetime.fromisoformat(made["expiresAt"])
    assert timedelta(hours=23, minutes=59) < ends - now() <= timedelta(hours=24)
    store, parts = served.services.store, urlsplit(made["uploadUrl"])
    key = parts.path.removeprefix("/uploads/")
    promise = store.verify_upload(key, dict(parse_qsl(parts.query)), now())
    assert (promise.mime_type, promise.bytes, promise.sha256) == ("image/png", 3, DIGEST.lower())
    assert store.key_of(made["url"]) == key
    sent = await served.client.put(made["uploadUrl"], content=b"abc", headers={"x-api-key": ""})
    assert (sent.status_code, sent.json()["error"]) == (422, "invalid_input"), "another digest was promised"
    assert (await served.client.get(made["url"])).status_code == 410
    job = await served.client.post(
        "/api/v1/media/quotes",
        json={"task": "image.generate", "input": {"prompt": "x", "referenceImages": [made["url"]]}},
    )
    assert job.status_code == 200
    assert job.json()["effectiveInput"]["referenceImages"] == [made["url"].partition("?")[0]]


@pytest.mark.parametrize(
    ("changes", "problem", "nearest"),
    [
        ({"mimeType": "image/gif"}, "mimeType", None),
        ({"mimeType": "text/html"}, "mimeType", None),
        ({"mimeType": 1}, "mimeType", None),
        ({"mimeType": "image"}, "mimeType", None),
        ({"bytes": 0}, "bytes", 1),
        ({"bytes": "3"}, "bytes", 3),
        ({"bytes": 3.5}, "bytes", 3),
        ({"bytes": 30_000_001}, "bytes", 30_000_000),
        ({"mimeType": "audio/x-wav", "bytes": 50_000_001}, "bytes", 50_000_000),
        ({"mimeType": "video/mp4", "bytes": 500_000_001}, "bytes", 500_000_000),
        ({"bytes": 10**30}, "bytes", 30_000_000),
        ({"sha256": "ab"}, "sha256", None),
        ({"sha256": DIGEST + "\n"}, "sha256", None),
        ({"sha256": "g" * 64}, "sha256", None),
        ({"sha512": DIGEST}, "sha512", "sha256"),
        ({"mimeType": None}, "mimeType", None),
        ({"bytes": None}, "bytes", None),
    ],
)
async def test_what_cannot_be_uploaded_is_422(served: Served, changes: Any, problem: str, nearest: Any) -> None:
    answer = await served.client.post(UPLOADS, json=PICTURE | changes)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_input")
    fields = {each["path"]: each for each in answer.json()["details"]["fields"]}
    assert problem in fields
    assert fields[problem].get("nearest") == nearest or nearest is None


async def test_what_is_sent_is_what_is_read(served: Served) -> None:
    made = (await served.client.post(UPLOADS, json=PICTURE)).json()
    sent = await served.client.put(made["uploadUrl"], content=b"abc", headers={"content-type": "image/png"})
    assert sent.status_code == 200, sent.text
    read = await served.client.get(made["url"])
    assert (read.content, read.headers["content-type"]) == (b"abc", "image/png")


async def test_types_are_taken_as_clients_write_them(served: Served) -> None:
    for mime_type in ("IMAGE/PNG", "audio/webm;codecs=opus"):
        assert (await served.client.post(UPLOADS, json={"mimeType": mime_type, "bytes": 3})).status_code == 201


async def test_a_key_opens_one_upload(served: Served) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await served.client.post(UPLOADS, json=PICTURE, headers=headers)
    again = await served.client.post(UPLOADS, json=PICTURE, headers=headers)
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await served.client.post(UPLOADS, json={**PICTURE, "bytes": 4}, headers=headers)
    assert (other.status_code, other.json()["error"]) == (409, "idempotency_conflict")
    assert await served.services.database.fetch_value("SELECT count(*) FROM upload") == 1


async def test_an_account_may_have_so_many(served: Served) -> None:
    for _ in range(3):
        assert (await served.client.post(UPLOADS, json=PICTURE)).status_code == 201
    full = await served.client.post(UPLOADS, json=PICTURE)
    assert (full.status_code, full.json()["error"]) == (429, "rate_limited")
    assert int(full.headers["Retry-After"]) > 86_000
    async with await served.another() as other:
        large = {"mimeType": "video/mp4", "bytes": 400_000_000}
        assert (await other.post(UPLOADS, json=large)).status_code == 201
        assert (await other.post(UPLOADS, json=large)).status_code == 429


async def test_nobody_without_a_key_opens_any(served: Served) -> None:
    answer = await served.client.post(UPLOADS, json=PICTURE, headers={"x-api-key": "kt_none"})
    assert answer.status_code == 401
