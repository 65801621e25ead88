"""A `database` that is emptied before each test instead of made anew: ten times faster, where no test changes a function."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from core.database import Database, patiently
from killatamata.embedded_postgres import EmbeddedPostgres
from tests.conftest import sibling

EMPTY = """
SET LOCAL session_replication_role = replica;
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables
    WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'sql_functions')
  LOOP EXECUTE format('DELETE FROM %I', name); END LOOP;
END $$;
"""


@pytest.fixture(scope="package")
async def kept(request: pytest.FixtureRequest, postgres: EmbeddedPostgres, template: str) -> AsyncIterator[Database]:
    """One migrated database for a package of tests."""
    name = "kept_" + request.node.name.replace("/", "_").replace(".", "_")
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE {template} STRATEGY FILE_COPY')
    opened = Database(sibling(postgres.dsn, name), size=20)
    await opened.open()
    yield opened
    await opened.close()
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


@pytest.fixture
async def database(kept: Database) -> Database:
    """An empty database, open, with every table and function (a test before may have cut its connections)."""

    async def empty() -> None:
        async with kept.transaction() as connection:
            await connection.execute(EMPTY)

    await patiently(empty)
    return kept


@pytest.fixture
async def database_url(database: Database) -> str:
    """Its URL."""
    return database.url
