"""The ends of files: over real PostgreSQL and the local store, also with several sweeps and submits at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.errors import StorageUnavailable
from jobs import sweeps
from jobs.inputs import Inputs
from jobs.leases import Outcome
from jobs.uploads import UploadLimits, Uploads
from storage import StoreUnavailable
from tests.jobs.files import FailingStore, aged, file_of, local_store, made
from tests.jobs.world import World

NOW = timedelta(0)


@pytest.fixture
def store(tmp_path: Path) -> FailingStore:
    return local_store(tmp_path)


async def test_outputs_end_with_their_window(world: World, store: FailingStore) -> None:
    account = await world.account()
    old = await made(world, account, store)
    await aged(world.database, "8 days")
    young = await made(world, account, store)
    assert await sweeps.expire_outputs(world.database, timedelta(days=7)) == 1
    assert (await world.reread(old)).outputs_deleted_at is not None
    assert (await world.reread(young)).outputs_deleted_at is None
    assert await sweeps.remove_strays(world.database, store) == 1
    assert list(store.keys()) == [young.outputs[0]["key"]]
    assert await sweeps.expire_outputs(world.database, timedelta(days=7)) == 0
    assert await sweeps.remove_strays(world.database, store) == 0


async def test_more_outputs_than_a_batch_end_too(world: World, store: FailingStore, monkeypatch: Any) -> None:
    monkeypatch.setattr(sweeps, "BATCH", 2)
    account = await world.account()
    for _ in range(5):
        await made(world, account, store, "0/image.webp")
    await aged(world.database, "8 days")
    assert await sweeps.expire_outputs(world.database, timedelta(days=7)) == 5
    assert await sweeps.remove_strays(world.database, store) == 5
    assert list(store.keys()) == []


async def test_strays_go_a_while_after_the_end_and_outputs_stay(world: World, store: FailingStore) -> None:
    account = await world.account()
    job = await made(world, account, store, "0/image.webp", "0/poster.webp")
    assert await sweeps.remove_strays(world.database, store) == 0
    assert len(list(store.keys())) == 3
    await aged(world.database, "16 minutes")
    assert await sweeps.remove_strays(world.database, store) == 1
    assert list(store.keys()) == [job.outputs[0]["key"]]
    assert await world.database.fetch_value("SELECT strays FROM job") is False


async def test_attempts_without_a_result_make_a_job_one_with_strays(world: World, store: FailingStore) -> None:
    account = await world.account()
    job = await world.submit(account)
    first = await world.claim_one()
    store.put(f"jobs/{job.id}/{first.fence}/image.webp", b"x", "image/webp")
    await world.leases.hand_back(first, "replica_died", counts=True)
    second = await world.claim_one()
    key = f"jobs/{job.id}/{second.fence}/image.webp"
    store.put(key, b"x", "image/webp")
    await world.leases.settle(second, "succeeded", Outcome(outputs=({"key": key, "role": "primary"},)))
    await aged(world.database, "16 minutes")
    assert await sweeps.remove_strays(world.database, store) == 1
    assert list(store.keys()) == [key]


async def test_what_a_failed_deletion_left_goes_at_once_and_again_when_late_attempts_are_over(
    world: World, store: FailingStore
) -> None:
    job = await made(world, await world.account(), store, "0/image.webp")
    await world.database.execute("UPDATE job SET outputs_deleted_at = clock_timestamp()")
    assert await sweeps.remove_strays(world.database, store) == 0, "a late attempt may still write"
    assert list(store.keys()) == []
    store.put(f"jobs/{job.id}/0/image.webp", b"late", "image/webp")
    await aged(world.database, "16 minutes")
    assert await sweeps.remove_strays(world.database, store) == 1
    assert list(store.keys()) == []


async def named(world: World, inputs: Inputs, account: Any, content: bytes) -> Any:
    file = file_of(content)
    kept_at = await inputs.keep([file])
    return await world.submit(account, inputs=(file.sha256,), inputs_kept_at=kept_at)


async def test_inputs_outlive_their_last_job_by_a_day(world: World, store: FailingStore) -> None:
    account, inputs = await world.account(), Inputs(world.database, store)
    for _ in range(2):
        await named(world, inputs, account, b"shared")
    await named(world, inputs, account, b"waiting")
    await inputs.keep([file_of(b"unnamed")])
    served = (await world.serve(1))[0]
    await aged(world.database, "25 hours", table="input", column="kept_at")
    await world.database.execute(
        "UPDATE job SET finished_at = finished_at - interval '25 hours' WHERE id = $1", served.job_id
    )
    assert await sweeps.remove_inputs(world.database, store) == 1
    assert set(store.keys()) == {file_of(b"shared").key, file_of(b"waiting").key}
    await world.serve(2)
    assert await sweeps.remove_inputs(world.database, store) == 0
    await aged(world.database, "25 hours")
    assert await sweeps.remove_inputs(world.database, store) == 2
    assert list(store.keys()) == []
    assert await world.counts("input", "job_input") == [0, 0]


async def test_an_input_that_came_just_now_is_kept_for_its_submit(world: World, store: FailingStore) -> None:
    inputs = Inputs(world.database, store)
    await inputs.keep([file_of(b"new")])
    assert await sweeps.remove_inputs(world.database, store) == 0
    await aged(world.database, "61 minutes", table="input", column="kept_at")
    await inputs.keep([file_of(b"new")])
    assert await sweeps.remove_inputs(world.database, store) == 0
    await aged(world.database, "61 minutes", table="input", column="kept_at")
    assert await sweeps.remove_inputs(world.database, store) == 1


async def unnamed_input_kept(world: World, interval: str) -> None:
    await world.database.execute(
        "CREATE OR REPLACE FUNCTION unnamed_input_kept() RETURNS interval LANGUAGE sql IMMUTABLE"
        f" AS $$ SELECT interval '{interval}' $$"
    )


@pytest.fixture
async def short_kept(world: World) -> AsyncIterator[float]:
    """Inputs are safe for so many seconds only."""
    await unnamed_input_kept(world, "0.1 s")
    yield 0.1
    await unnamed_input_kept(world, "1 h")


async def test_a_submit_whose_input_may_have_been_swept_is_refused_whole(
    world: World, store: FailingStore, short_kept: float
) -> None:
    account, inputs = await world.account(), Inputs(world.database, store)
    file = file_of(b"slow")
    kept_at = await inputs.keep([file])
    before = await world.balance(account)
    await asyncio.sleep(short_kept / 2)
    with pytest.raises(StorageUnavailable, match="Send it again"):
        await world.submit(account, inputs=(file.sha256,), inputs_kept_at=kept_at)
    assert await world.counts("job", "hold", "queue", "event") == [0, 0, 0, 0]
    assert await world.balance(account) == before


async def test_no_accepted_job_ever_names_a_missing_object(
    world: World, store: FailingStore, short_kept: float
) -> None:
    """Sweeps without a pause beside submits, slow and quick, that bring the same few files again and again."""
    account, inputs = await world.account(credit=10**9), Inputs(world.database, store)
    submitting, counts = True, {"accepted": 0, "refused": 0, "swept": 0}

    async def submit(number: int) -> None:
        chance = random.Random(number)
        for _ in range(25):
            files = [file_of(b"content %d" % chance.randrange(3)) for _ in range(2)]
            kept_at = await inputs.keep(files)
            await asyncio.sleep(chance.choice([0, 0.2 * short_kept, 1.5 * short_kept]))
            try:
                named = tuple(file.sha256 for file in files)
                job = await world.submit(account, inputs=named, inputs_kept_at=kept_at)
            except StorageUnavailable:
                counts["refused"] += 1
                continue
            counts["accepted"] += 1
            for file in files:
                assert await asyncio.to_thread(store.stat, file.key), "a live job names it"
            await world.jobs.cancel(account, job.id)

    async def sweep() -> None:
        while submitting:
            counts["swept"] += await sweeps.remove_inputs(world.database, store, kept=NOW)

    async with asyncio.TaskGroup() as sweeping:
        for _ in range(2):
            sweeping.create_task(sweep())
        try:
            await asyncio.gather(*(submit(number) for number in range(5)))
        finally:
            submitting = False
    assert min(counts.values()) > 0, counts


async def test_uploads_end_with_what_came_or_without(world: World, store: FailingStore) -> None:
    account, uploads = await world.account(), Uploads(store, UploadLimits(10, 10**6, 3600))
    keys = []
    for _ in range(3):
        async with world.database.transaction() as connection:
            upload = await uploads.open(connection, account, mime_type="image/png", size=3, sha256=None)
        keys.append(store.key_of(upload.url) or "")
        store.put(keys[-1], b"abc", "image/png")
    store.delete(keys[0])
    await world.database.execute(
        "UPDATE upload SET expires_at = expires_at - interval '66 minutes' WHERE key = ANY ($1)", keys[:2]
    )
    assert await sweeps.remove_uploads(world.database, store) == 2
    assert list(store.keys()) == keys[2:]
    assert await world.counts("upload") == [1]


Sweep = Callable[[World, FailingStore], Awaitable[int]]
EACH: dict[str, Sweep] = {
    "strays": lambda world, store: sweeps.remove_strays(world.database, store),
    "inputs": lambda world, store: sweeps.remove_inputs(world.database, store),
    "uploads": lambda world, store: sweeps.remove_uploads(world.database, store),
}


async def littered(world: World, store: FailingStore, count: int) -> None:
    """So much for each sweep to do, and nothing in the store besides."""
    account = await world.account()
    inputs, uploads = Inputs(world.database, store), Uploads(store, UploadLimits(100, 10**6, 3600))
    for number in range(count):
        await made(world, account, store, "0/image.webp")
        await inputs.keep([file_of(b"%d" % number)])
        async with world.database.transaction() as connection:
            upload = await uploads.open(connection, account, mime_type="image/png", size=3, sha256=None)
        store.put(store.key_of(upload.url) or "", b"abc", "image/png")
    await aged(world.database, "8 days")
    await aged(world.database, "8 days", table="input", column="kept_at")
    await aged(world.database, "8 days", table="upload", column="expires_at")
    await sweeps.expire_outputs(world.database, timedelta(days=7))


@pytest.mark.parametrize("name", EACH)
async def test_two_sweeps_at_once_do_everything_once(world: World, store: FailingStore, name: str) -> None:
    await littered(world, store, 6)
    found = await asyncio.gather(*(EACH[name](world, store) for _ in range(3)))
    assert sum(found) + await EACH[name](world, store) == 6


@pytest.mark.parametrize("name", EACH)
async def test_a_sweep_that_a_store_stops_goes_on_later(world: World, store: FailingStore, name: str) -> None:
    await littered(world, store, 3)
    store.away = True
    with pytest.raises(StoreUnavailable):
        await EACH[name](world, store)
    store.away = False
    assert await EACH[name](world, store) == 3


@pytest.mark.parametrize("name", EACH)
async def test_a_sweep_that_is_killed_after_a_deletion_is_made_up_for(
    world: World, store: FailingStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await littered(world, store, 2)

    class Killed(BaseException):
        pass

    def killed(real: Any) -> Any:
        def delete(key: str) -> None:
            real(key)
            raise Killed

        return delete

    with monkeypatch.context() as patch:
        patch.setattr(store, "delete", killed(store.delete))
        patch.setattr(store, "delete_prefix", killed(store.delete_prefix))
        with pytest.raises(Killed):
            await EACH[name](world, store)
    assert await EACH[name](world, store) == 2
    for each in EACH.values():
        await each(world, store)
    assert list(store.keys()) == []
