from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from croniter import croniter
from structlog.testing import capture_logs

from api import looks, metrics
from api.app import application
from api.services import Services
from billing import checks
from core.clock import now
from core.database import Database
from killatamata.sweeps import SWEEPS
from tests.jobs.files import aged, file_of, made
from tests.jobs.world import World
from tests.webhooks.scene import Scene, settings

BY_NAME = {sweep.name: sweep for sweep in SWEEPS}


@pytest.fixture(autouse=True)
def looked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "FRESH_SECONDS", 0.0)


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
    assert kept == {"touched": (1, []), "all": (1, []), "chains": (1, []), "holds": (1, []), "jobs": (1, [])}
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


PLANTED = {
    "a hold whose job has ended, and whose place is gone": (
        "UPDATE job SET state = 'cancelled', finished_at = clock_timestamp(); DELETE FROM queue",
        {"holds"},
    ),
    "a hold whose job has ended": ("UPDATE job SET state = 'cancelled', finished_at = clock_timestamp()", {"holds"}),
    "a job without its hold": (
        "SET session_replication_role = replica; DELETE FROM hold; SET session_replication_role = origin",
        {"touched", "all", "jobs"},
    ),
    "a job whose hold was released": (
        "SELECT hold_settle(id, false, NULL) FROM hold",
        {"jobs"},
    ),
    "a hold of another amount": ("UPDATE hold SET amount = amount + 1", {"touched", "all", "jobs"}),
    "a job that nobody will ever claim": ("DELETE FROM queue", {"jobs"}),
    "money out of nothing": ("UPDATE wallet SET available = available + 1", {"touched", "all"}),
    "an entry rewritten": (
        "SET session_replication_role = replica; UPDATE entry SET amount = amount + 1 WHERE book = 'available';"
        " SET session_replication_role = origin",
        {"touched", "all", "chains"},
    ),
}


@pytest.mark.parametrize(("plant", "scopes"), PLANTED.values(), ids=PLANTED)
async def test_a_planted_violation_is_found_and_shown_everywhere(scene: Scene, plant: str, scopes: set[str]) -> None:
    account = await scene.world.account()
    await scene.world.submit(account)
    assert await swept(scene) == []
    assert await shown(scene) == ("ok", set())
    async with scene.database.transaction() as connection:
        await connection.execute(plant)
    assert {str(account)} == {name for entry in await swept(scene) for name in entry["accounts"]}
    assert {check.scope for check in await checks.last(scene.database) if check.wrong == [account]} == scopes
    assert await shown(scene) == ("wrong", scopes)


async def shown(scene: Scene) -> tuple[str, set[str]]:
    """What /health?deep=1 says of the ledger, and the scopes of /metrics with an account at fault."""
    transport = httpx.ASGITransport(application(scene.services), client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        parts = (await client.get("/health", params={"deep": 1})).json()["parts"]
    told = await metrics.ledger(scene.database)
    wrong = {
        sample.labels["scope"]
        for family in told
        for sample in family.samples
        if family.name.endswith("wrong") and sample.value
    }
    return parts["ledger"], wrong


async def test_a_ledger_that_nobody_checked_lately_is_not_said_to_be_right(scene: Scene) -> None:
    assert await shown(scene) == ("unchecked", set())
    await swept(scene)
    await scene.database.execute("UPDATE ledger_check SET at = at - interval '11 minutes' WHERE scope = 'jobs'")
    assert (await shown(scene))[0] == "unchecked"


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
