"""One private Ray for all tests of deployments and cluster, on one database that its replicas can read.

Ray reads its authentication when it is first imported, so this module sets it when it is imported itself, by a conftest.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cluster.ray_environment import environment
from core.database import Database
from core.settings import Settings
from jobs.leases import Leases
from killatamata.embedded_postgres import EmbeddedPostgres
from tests.conftest import sibling

_holders: list[str] = []
"""Fixtures of each package's conftest that hold the one Ray."""

FOLDER = Path(tempfile.mkdtemp(prefix="ktr"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
os.environ.update(environment(Settings(data_dir=FOLDER)))
with warnings.catch_warnings():
    # Serve's own schemas use what Pydantic has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    importlib.import_module("ray.serve.schema")


@pytest.fixture(scope="session")
def cluster_url(postgres: EmbeddedPostgres, template: str) -> str:
    """The database that every process of the cluster reads. Its server counts as long started."""

    async def make() -> str:
        admin = await asyncpg.connect(postgres.dsn)
        url = sibling(postgres.dsn, "cluster")
        if await admin.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'cluster')"):
            await admin.close()
            return url
        await admin.execute(f"CREATE DATABASE cluster TEMPLATE {template} STRATEGY FILE_COPY")
        await admin.close()
        connection = await asyncpg.connect(url)
        await connection.execute(
            "CREATE OR REPLACE FUNCTION restart_grace() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '0' $$"
        )
        await connection.close()
        return url

    return asyncio.run(make())


@pytest.fixture(scope="session")
def cluster_settings(cluster_url: str) -> dict[str, str]:
    """The environment of every process of the cluster."""
    return {
        "KILLATAMATA_DATA_DIR": str(FOLDER),
        "KILLATAMATA_DATABASE_URL": cluster_url,
        "KILLATAMATA_EGRESS_ALLOW": "127.0.0.0/8",
        "KILLATAMATA_PUBLIC_URL": "https://api.example.test",
        "KILLATAMATA_SECRET_KEY": "k" * 32,
        "KILLATAMATA_LOG_LEVEL": "warning",
    }


@pytest.fixture(scope="session")
def ray_cluster(cluster_settings: dict[str, str]) -> Iterator[None]:
    """Ray and Serve's control plane."""
    if not _holders:
        _start(cluster_settings)
    _holders.append("a package of tests")
    yield
    _holders.pop()
    if not _holders:
        serve: Any = importlib.import_module("ray.serve")
        serve.shutdown()
        importlib.import_module("cluster.bring_up").stop()


def _start(environment: dict[str, str]) -> None:
    from cluster import bring_up

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        bring_up.start(Settings())
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def in_cluster(ray_cluster: None, cluster_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """This process reads the settings that the cluster's processes read."""
    for name, value in cluster_settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def cluster_database(cluster_url: str) -> AsyncIterator[Database]:
    """The cluster's database, open; sessions that a test leaves are ended."""
    database = Database(cluster_url, size=8)
    await database.open()
    yield database
    for row in await database.fetch("SELECT id FROM session WHERE ended_at IS NULL"):
        await Leases(database).close_session(row["id"])
    await database.execute("UPDATE pool SET paused = true")
    await database.close()
