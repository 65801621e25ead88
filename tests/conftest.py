"""One embedded PostgreSQL for the whole run, and a fresh, migrated database for every test that asks for one."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from core.database import Database
from killatamata.embedded_postgres import MAJOR, EmbeddedPostgres
from killatamata.migrate import migrate

_numbers = itertools.count()


def sibling(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def absent(what: str) -> NoReturn:
    """Skip a test for the lack of something that `.ci/run` installs; there, where nothing may be missing, it fails.

    Raises:
        pytest.skip.Exception: the test is skipped.
        pytest.fail.Exception: KILLATAMATA_TESTS_COMPLETE is set.
    """
    if os.environ.get("KILLATAMATA_TESTS_COMPLETE"):
        pytest.fail(f"{what}, and KILLATAMATA_TESTS_COMPLETE is set")
    pytest.skip(what)


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A private folder with a short path (an AF_UNIX path ends at 107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="kt"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(short_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The embedded server."""
    sockets = short_folder / "s"
    sockets.mkdir(mode=0o700)
    server = EmbeddedPostgres(short_folder / f"pg{MAJOR}", sockets)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database that others are copied from."""

    async def make() -> None:
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute("CREATE DATABASE template_killatamata")
        await connection.close()
        await migrate(sibling(postgres.dsn, "template_killatamata"))

    asyncio.run(make())
    return "template_killatamata"


@pytest.fixture
async def database_url(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The URL of a fresh database with every table and function."""
    name = f"test_{next(_numbers)}"
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield sibling(postgres.dsn, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A fresh database, open."""
    opened = Database(database_url, size=20)
    await opened.open()
    yield opened
    await opened.close()
