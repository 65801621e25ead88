from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import pytest

from core.clock import now
from core.errors import RateLimited
from core.ids import encode
from jobs.uploads import _OPEN, Upload, UploadLimits, Uploads
from storage import LocalStore
from tests.jobs.files import aged, local_store
from tests.jobs.world import World

DIGEST = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return local_store(tmp_path)


@pytest.fixture
def uploads(store: LocalStore) -> Uploads:
    return Uploads(store, UploadLimits(files=3, bytes=1000, seconds=3600))


async def opened(world: World, uploads: Uploads, account: UUID, **changes: Any) -> Upload:
    fields: dict[str, Any] = {"mime_type": "image/png", "size": 10, "sha256": None}
    async with world.database.transaction() as connection:
        return await uploads.open(connection, account, **(fields | changes))


async def test_an_upload_is_a_promise_and_two_urls(world: World, uploads: Uploads, store: LocalStore) -> None:
    upload = await opened(world, uploads, await world.account(), sha256=DIGEST)
    key = f"up/{encode('upl', upload.id)}"
    assert timedelta(minutes=59) < upload.expires_at - now() <= timedelta(hours=1)
    parts = urlsplit(upload.upload_url)
    assert parts.path == f"/uploads/{key}"
    promise = store.verify_upload(key, dict(parse_qsl(parts.query)), now())
    assert (promise.mime_type, promise.bytes, promise.sha256) == ("image/png", 10, DIGEST)
    assert store.key_of(upload.url) == key
    row = await world.database.fetch_row("SELECT * FROM upload")
    assert row is not None
    assert (row["id"], row["key"], row["sha256"].hex()) == (upload.id, key, DIGEST)
    assert row["expires_at"] == upload.expires_at


async def test_an_account_has_so_many_uploads_at_a_time(world: World, uploads: Uploads) -> None:
    account, other = await world.account(), await world.account()
    for _ in range(3):
        await opened(world, uploads, account)
    with pytest.raises(RateLimited, match="3 uploads of 30 bytes") as refused:
        await opened(world, uploads, account)
    assert 3500 < int(refused.value.headers["Retry-After"]) <= 3600
    await opened(world, uploads, other)
    await aged(world.database, "1 hour", table="upload", column="expires_at")
    await opened(world, uploads, account)


async def test_an_account_has_so_many_bytes_at_a_time(world: World, uploads: Uploads) -> None:
    account = await world.account()
    await opened(world, uploads, account, size=600)
    with pytest.raises(RateLimited, match="1000 bytes"):
        await opened(world, uploads, account, size=401)
    await opened(world, uploads, account, size=400)


async def test_of_many_at_once_no_more_than_may_be_are_opened(world: World, uploads: Uploads) -> None:
    account = await world.account()
    found = await asyncio.gather(*(opened(world, uploads, account) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(each, Upload) for each in found) == 3
    assert sum(isinstance(each, RateLimited) for each in found) == 9
    assert await world.counts("upload") == [3]


async def test_an_accounts_uploads_are_counted_by_index_not_by_reading_all(world: World) -> None:
    account, other = await world.account(), await world.account()
    await world.database.execute(
        "INSERT INTO upload (id, account_id, key, mime_type, bytes, expires_at)"
        " SELECT gen_random_uuid(), CASE WHEN n = 1 THEN $1::uuid ELSE $2::uuid END, n::text, 'image/png', 1, 'infinity'"
        " FROM generate_series(1, 3000) n",
        account,
        other,
    )
    await world.database.execute("ANALYZE upload")
    plan = await world.database.fetch(f"EXPLAIN {_OPEN}", account)
    text = "\n".join(row[0] for row in plan)
    assert "upload_by_account" in text, text
