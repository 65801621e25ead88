from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from croniter import croniter
from structlog.testing import capture_logs

from api.services import Services
from billing import checks
from core.clock import now
from core.database import Database
from killatamata.sweeps import SWEEPS
from tests.jobs.files import aged, file_of, made
from tests.jobs.world import World
from tests.webhooks.scene import Scene, settings

BY_NAME = {sweep.name: sweep for sweep in SWEEPS}


@pytest.fixture
async def scene(database: Database, tmp_path: Path) -> Any:
    services = Services.of(settings(database.url, tmp_path))
    await services.database.open()
    world = World(database)
    await world.open()
    yield Scene(services, world)
    await services.database.close()


async def swept(scene: Scene) -> list[Any]:
    """Every sweep, one after the other; the errors that were logged."""
    with capture_logs() as logged:
        for sweep in SWEEPS:
            await sweep.run(scene.services)
    return [entry for entry in logged if entry["log_level"] == "error"]


def test_names_are_unique_and_schedules_are_readable() -> None:
    assert len(BY_NAME) == len(SWEEPS)
    for sweep in SWEEPS:
        assert croniter.is_valid(sweep.cron), sweep
        assert croniter(sweep.cron).get_next(float) - now().timestamp() < timedelta(days=1).total_seconds(), sweep


async def test_a_healthy_service_is_swept_in_silence(scene: Scene) -> None:
    account = await scene.world.account()
    await scene.succeeded(account, "https://example.com/hook")
    await scene.world.submit(account)
    assert await swept(scene) == []
    kept = {check.scope: (check.checked, check.wrong) for check in await checks.last(scene.database)}
    assert kept == {"touched": (1, []), "all": (1, []), "chains": (1, []), "holds": (1, [])}
    assert await scene.world.counts("delivery", "event") == [1, 4]


async def test_wrong_money_is_an_error_in_the_log(scene: Scene) -> None:
    account = await scene.world.account()
    await scene.database.execute("UPDATE wallet SET available = available + 1")
    job = await scene.world.submit(account)
    await scene.database.execute(
        "UPDATE job SET state = 'cancelled', finished_at = clock_timestamp() WHERE id = $1", job.id
    )
    errors = await swept(scene)
    assert [(entry.get("scope"), entry["accounts"]) for entry in errors] == [
        ("touched", [str(account)]),
        ("all", [str(account)]),
        (None, [str(account)]),
    ]


async def test_what_is_too_old_goes(scene: Scene) -> None:
    account = await scene.world.account()
    await scene.succeeded(account, "https://example.com/hook")
    await scene.database.execute(
        "UPDATE delivery SET state = 'delivered', ended_at = clock_timestamp() - interval '31 days'"
    )
    await scene.database.execute(
        "INSERT INTO idempotency (account_id, route, key, fingerprint, created_at)"
        " VALUES ($1, 'r', 'k', '', clock_timestamp() - interval '2 days')",
        account,
    )
    assert await swept(scene) == []
    assert await scene.world.counts("delivery", "idempotency") == [0, 0]


async def test_files_end_when_their_time_is_over(scene: Scene) -> None:
    store, database = scene.services.store, scene.database
    account = await scene.world.account()
    job = await made(scene.world, account, store, "0/image.webp")
    await scene.services.inputs.keep([file_of(b"unnamed")])
    async with database.transaction() as connection:
        upload = await scene.services.uploads.open(connection, account, mime_type="image/png", size=3, sha256=None)
    store.put(store.key_of(upload.url) or "", b"abc", "image/png")
    assert await swept(scene) == []
    assert len(list(store.keys())) == 4, "all of it is young"
    await aged(database, "8 days")
    await aged(database, "8 days", table="input", column="kept_at")
    await aged(database, "8 days", table="upload", column="expires_at")
    assert await swept(scene) == []
    assert list(store.keys()) == []
    assert (await scene.world.reread(job)).outputs_deleted_at is not None
