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
    assert kept == {"touched": (1, []), "all": (1, []), "holds": (1, [])}
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
