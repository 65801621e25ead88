from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from core.clock import now
from core.errors import NotFound, WrongState
from core.ids import uuid7
from jobs.artifacts import Artifacts, FileGone, FileTooLarge, NoSuchFile, NotUploaded
from jobs.uploads import Upload, UploadLimits, Uploads
from storage import LocalStore
from tests.jobs.files import BASE_URL, FailingStore, aged, local_store, made
from tests.jobs.world import World

MOST = 1000


@pytest.fixture
def store(tmp_path: Path) -> FailingStore:
    return local_store(tmp_path)


@pytest.fixture
def artifacts(world: World, store: LocalStore) -> Artifacts:
    return Artifacts(world.database, store, kept_days=7)


def signed(store: LocalStore, key: str, seconds: float = 60) -> str:
    return store.url(key, expires_at=now() + timedelta(seconds=seconds), filename="a.webp")


async def opened(world: World, store: LocalStore, account: UUID) -> Upload:
    async with world.database.transaction() as connection:
        return await Uploads(store, UploadLimits(5, 10_000, 3600)).open(
            connection, account, mime_type="image/png", size=3, sha256=None
        )


async def test_an_own_output_is_found_however_old_its_signature(
    world: World, artifacts: Artifacts, store: LocalStore
) -> None:
    account = await world.account()
    (key,) = [output["key"] for output in (await made(world, account, store)).outputs]
    for url in (
        signed(store, key),
        signed(store, key, -3600),
        f"{BASE_URL}/objects/{key}",
        f"{BASE_URL}/objects/{key}?x",
    ):
        found = await artifacts.locate(account, url, max_bytes=MOST)
        assert found is not None
        assert (found.key, found.bytes) == (key, 7)
    assert await artifacts.locate(account, f"https://elsewhere.test/objects/{key}", max_bytes=MOST) is None
    with pytest.raises(FileTooLarge, match="has 7 bytes; at most 6"):
        await artifacts.locate(account, signed(store, key), max_bytes=6)


async def test_what_is_not_the_accounts_is_as_if_it_were_not_there(
    world: World, artifacts: Artifacts, store: LocalStore
) -> None:
    owner, other = await world.account(), await world.account()
    job = await made(world, owner, store, "0/image.webp")
    key = job.outputs[0]["key"]
    upload = await opened(world, store, owner)
    store.put("in/" + "a" * 64, b"x", "image/png")
    texts = set()
    for account, url in [
        (other, signed(store, key)),
        (other, upload.url),
        (owner, signed(store, f"jobs/{job.id}/0/image.webp")),
        (owner, signed(store, f"jobs/{uuid7()}/1/image.webp")),
        (owner, signed(store, f"jobs/{str(job.id).upper()}/1/image.webp")),
        (owner, signed(store, "jobs/x/1/image.webp")),
        (owner, signed(store, "jobs")),
        (owner, signed(store, "up/upl_x")),
        (owner, signed(store, "in/" + "a" * 64)),
        (owner, signed(store, "other/thing")),
    ]:
        with pytest.raises(NoSuchFile) as refused:
            await artifacts.locate(account, url, max_bytes=MOST)
        texts.add((str(refused.value), refused.value.code))
    assert len(texts) == 1


async def test_an_output_is_gone_after_its_window_or_its_deletion(
    world: World, artifacts: Artifacts, store: LocalStore
) -> None:
    account = await world.account()
    url = signed(store, (await made(world, account, store)).outputs[0]["key"])
    await aged(world.database, "7 days")
    with pytest.raises(FileGone) as refused:
        await artifacts.locate(account, url, max_bytes=MOST)
    assert refused.value.code == "output_expired"
    job = await made(world, account, store)
    await artifacts.delete_outputs(account, job.id)
    with pytest.raises(FileGone):
        await artifacts.locate(account, signed(store, job.outputs[0]["key"]), max_bytes=MOST)
    lost = await made(world, account, store)
    store.delete(lost.outputs[0]["key"])
    with pytest.raises(FileGone):
        await artifacts.locate(account, signed(store, lost.outputs[0]["key"]), max_bytes=MOST)


async def test_an_upload_is_found_once_its_content_is_there(
    world: World, artifacts: Artifacts, store: LocalStore
) -> None:
    account = await world.account()
    upload = await opened(world, store, account)
    with pytest.raises(NotUploaded, match="PUT the file"):
        await artifacts.locate(account, upload.url, max_bytes=MOST)
    key = store.key_of(upload.url)
    assert key is not None
    store.put(key, b"abc", "image/png")
    found = await artifacts.locate(account, upload.url, max_bytes=MOST)
    assert found is not None
    assert found.key == key
    await aged(world.database, "1 day", table="upload", column="expires_at")
    with pytest.raises(FileGone):
        await artifacts.locate(account, upload.url, max_bytes=MOST)


async def test_deleting_outputs_leaves_the_record_and_nothing_else(
    world: World, artifacts: Artifacts, store: LocalStore
) -> None:
    account = await world.account()
    job, other = await made(world, account, store), await made(world, account, store)
    await artifacts.delete_outputs(account, job.id)
    assert list(store.keys()) == [other.outputs[0]["key"]]
    first = (await world.reread(job)).outputs_deleted_at
    assert first is not None
    assert await world.database.fetch_value("SELECT strays FROM job WHERE id = $1", job.id) is False
    await artifacts.delete_outputs(account, job.id)
    assert (await world.reread(job)).outputs_deleted_at == first


async def test_a_store_that_fails_leaves_the_files_to_the_sweep(
    world: World, artifacts: Artifacts, store: FailingStore
) -> None:
    account = await world.account()
    job = await made(world, account, store)
    store.away = True
    await artifacts.delete_outputs(account, job.id)
    assert (await world.reread(job)).outputs_deleted_at is not None
    assert await world.database.fetch_value("SELECT strays FROM job WHERE id = $1", job.id)
    assert len(list(store.keys())) == 1


async def test_only_an_ended_job_of_ones_own_can_lose_its_outputs(world: World, artifacts: Artifacts) -> None:
    account, other = await world.account(), await world.account()
    job = await world.submit(account)
    with pytest.raises(WrongState, match="not ended"):
        await artifacts.delete_outputs(account, job.id)
    await world.claim_one()
    with pytest.raises(WrongState):
        await artifacts.delete_outputs(account, job.id)
    for who, which in [(other, job.id), (account, uuid7())]:
        with pytest.raises(NotFound):
            await artifacts.delete_outputs(who, which)
    assert (await world.reread(job)).outputs_deleted_at is None
