from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import serve
from ray.serve.schema import ApplicationStatus

from cluster import fleet
from cluster.fleet import BadFleet, FleetFailed
from core.database import Database
from core.settings import Settings
from tasks.registry import TASKS
from tests.leasing import session

QUICK: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}, "graceful_shutdown_timeout_s": 0}
DISPATCHER: dict[str, Any] = {
    "name": "dispatcher",
    "route_prefix": None,
    "import_path": "tests.cluster.idle:dispatcher",
    "args": {},
    "deployments": [{"name": "Dispatcher", **QUICK}],
}
MODEL: dict[str, Any] = {
    "name": "idle-pool",
    "route_prefix": None,
    "import_path": "tests.cluster.idle:model",
    "args": {"pool": "idle-pool", "engine": "qwen-image", "weights": "tiny:qwen-image"},
    "deployments": [{"name": "Replica", **QUICK}],
}
Write = Callable[..., str]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    """Write a fleet file of these applications; returns its path."""

    def write(*applications: dict[str, Any], **more: Any) -> str:
        path = tmp_path / "fleet.yaml"
        path.write_text(yaml.safe_dump({"proxy_location": "Disabled", "applications": list(applications), **more}))
        return str(path)

    return write


@pytest.mark.parametrize("name", ["embedded", "single-gpu"])
def test_every_shipped_fleet_has_the_pools_of_all_pictures(name: str) -> None:
    found = fleet.load(name)
    assert found.name == name
    for task, given in (
        ("image.generate", {"prompt": "a fox"}),
        ("image.generate", {"prompt": "a fox", "referenceImages": ["https://example.com/a.png"]}),
        ("image.edit", {"prompt": "a fox", "sourceImage": "https://example.com/a.png"}),
    ):
        assert set(TASKS[task].pools(TASKS[task].prepare(given).effective_input)) <= found.pools


def test_the_embedded_pools_fit_together_into_the_memory_that_replicas_may_declare() -> None:
    found = fleet.load("embedded")
    declared = [
        deployment.ray_actor_options.memory
        for application in found.schema.applications
        if application.name in found.pools
        for deployment in application.deployments
    ]
    assert len(declared) == len(found.pools)
    assert all(declared)
    assert sum(each or 0 for each in declared) <= Settings().fleet_memory_gib * 2**30


def test_a_fleet_can_be_a_file_of_ones_own(written: Write) -> None:
    assert fleet.load(written(DISPATCHER, MODEL)).pools == {"idle-pool"}


@pytest.mark.parametrize(
    ("given", "most"), [({}, 7200), ({"maxQueueSeconds": 30}, 30), ({"maxQueueSeconds": None}, None)]
)
def test_a_pool_says_how_much_may_wait_in_it(written: Write, given: dict[str, Any], most: float | None) -> None:
    found = fleet.load(written(DISPATCHER, {**MODEL, "args": {**MODEL["args"], **given}}))
    assert found.max_queue_seconds == {"idle-pool": most}


@pytest.mark.parametrize("name", ["no such fleet", "", "../../pyproject", "/nowhere/fleet.yaml", "nul\0.yaml", "nul\0"])
def test_a_fleet_that_is_not_there_is_said_to_be_so(name: str) -> None:
    with pytest.raises(BadFleet, match="there is no fleet"):
        fleet.load(name)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00binary",
        b"just words",
        b"[1, 2]",
        b"applications: [",
        b"applications: 7",
        b"applications:\n  - name: dispatcher\n",
        b"a: &a [*a]",
    ],
)
def test_a_file_that_is_no_fleet_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_bytes(content)
    with pytest.raises(BadFleet):
        fleet.load(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "another"}, "must be named after its pool"),
        ({"args": {**MODEL["args"], "engine": "qwen-imagge"}}, "use one of: |wants engine 'qwen-imagge'"),
        ({"args": {**MODEL["args"], "price": 3}}, "price"),
        ({"args": {"pool": "idle-pool"}}, "weights"),
        ({"args": {**MODEL["args"], "canvasCap": "wide"}}, "canvasCap"),
        ({"args": {**MODEL["args"], "maxQueueSeconds": 0}}, "maxQueueSeconds"),
        ({"args": {**MODEL["args"], "maxQueueSeconds": float("inf")}}, "maxQueueSeconds"),
        ({"args": {**MODEL["args"], "options": {"speed": 9}}}, "options of pool 'idle-pool' are wrong.*speed"),
        ({"deployments": [{"name": "Replica", "ray_actor_options": {"memory": 10**8}}]}, "declares 0.1 GB of memory"),
        ({"import_path": "no module path"}, "import path"),
        ({"deployments": [{"name": "Replica", "max_ongoing_requests": -1}]}, "max_ongoing_requests"),
    ],
)
def test_a_mistake_in_a_fleet_is_named(written: Write, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadFleet, match=f"(?s){message}"):
        fleet.load(written(DISPATCHER, {**MODEL, **changes}))


def test_a_fleet_needs_a_dispatcher_and_each_name_once(written: Write) -> None:
    with pytest.raises(BadFleet, match="no application 'dispatcher'"):
        fleet.load(written(MODEL))
    with pytest.raises(BadFleet, match="idle-pool"):
        fleet.load(written(DISPATCHER, MODEL, MODEL))


@pytest.fixture
def deployed(ray_cluster: None) -> Iterator[None]:
    yield
    for name in ("dispatcher", "idle-pool"):
        serve.delete(name)


async def test_applying_a_fleet_again_replaces_nothing_and_dispatchers_go_on_even_when_it_fails(
    deployed: None, cluster_database: Database, written: Write
) -> None:
    async def pids() -> list[int]:
        return [await serve.get_app_handle(name).pid.remote() for name in ("dispatcher", "idle-pool")]

    asked = fleet.load(written(DISPATCHER, MODEL))
    await fleet.apply(asked, cluster_database)
    most = "SELECT max_queue_seconds FROM pool WHERE name = 'idle-pool'"
    assert await cluster_database.fetch_value(most) == 7200
    first = await pids()
    slots = await fleet.slots()
    assert slots["idle-pool"] == 1
    assert "dispatcher" not in slots
    assert await cluster_database.fetch_value("SELECT count(*) FROM pool WHERE name = 'idle-pool'") == 1
    drain_by = "SELECT drain_by FROM session WHERE id = $1"
    async with session(cluster_database) as number:
        await fleet.apply(asked, cluster_database)
        assert await pids() == first
        assert await cluster_database.fetch_value(drain_by, number) is None
        wrong = fleet.load(written(DISPATCHER, {**MODEL, "import_path": "tests.cluster.idle:broken"}))
        with pytest.raises(FleetFailed, match="'idle-pool' failed to deploy"):
            await fleet.apply(wrong, cluster_database)
        assert await cluster_database.fetch_value(drain_by, number) is None


class ClientDouble:
    """A double of Serve's client, whose controller takes every config and does nothing."""

    def deploy_apps(self, schema: Any) -> None:
        """Take it."""


async def test_a_fleet_that_takes_too_long_says_what_is_missing(
    database: Database, written: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def status() -> dict[str, ApplicationStatus]:
        return {"dispatcher": ApplicationStatus.RUNNING}

    monkeypatch.setattr(fleet, "_get_global_client", ClientDouble)
    monkeypatch.setattr(fleet, "status", status)
    async with session(database) as number:
        with pytest.raises(FleetFailed, match="dispatcher is RUNNING, idle-pool is missing"):
            await fleet.apply(fleet.load(written(DISPATCHER, MODEL)), database, timeout_s=0.5)
        assert await database.fetch_value("SELECT drain_by FROM session WHERE id = $1", number) is None


async def test_a_fleet_that_needs_more_memory_than_is_granted_is_refused_before_anything_is_deployed(
    ray_cluster: None, cluster_database: Database
) -> None:
    before = await fleet.status()
    with pytest.raises(BadFleet, match=r"declares 59\.6 GiB.*granted 4\.0; set KILLATAMATA_FLEET_MEMORY_GIB"):
        await fleet.apply(fleet.load("single-gpu"), cluster_database)
    assert await fleet.status() == before


async def test_a_control_call_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    real = asyncio.timeout
    monkeypatch.setattr("cluster.fleet.asyncio.timeout", lambda seconds: real(0.1))
    monkeypatch.setattr("cluster.fleet.serve.status", lambda: time.sleep(0.5))
    with pytest.raises(TimeoutError):
        await fleet.slots()
    with pytest.raises(TimeoutError):
        await fleet.status()
