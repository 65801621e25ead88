"""Migrations: Alembic versions for tables, and the SQL functions of every package, applied again when they change.

A table changes by a new version. A function is `CREATE OR REPLACE` in `<package>/sql/*.sql`; all of them are applied in one
transaction whenever their text differs from what the database has (a changed signature is dropped by a version first).
"""

from __future__ import annotations

import asyncio
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncpg
from alembic import command, op
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from core.errors import OperatorError

FUNCTIONS = (
    ("billing", "ledger.sql"),
    ("accounts", "idempotency.sql"),
    ("jobs", "states.sql"),
    ("jobs", "queue.sql"),
    ("jobs", "jobs.sql"),
    ("jobs", "operator.sql"),
)
_LOCK = 0x6B7401
_OLDEST_SERVER = 150000


class OldServer(OperatorError):
    """PostgreSQL is older than 15."""


def run_file(name: str) -> None:
    """Run a file of SQL statements that lies beside the versions, on the migration's connection."""
    sql = files("killatamata.migrations.versions").joinpath(name).read_text()
    run_script(op.get_bind(), sql)


def run_script(connection: Connection, sql: str) -> None:
    """Run statements, however many, on the migration's connection."""
    driver: Any = connection.connection.dbapi_connection
    driver.run_async(lambda raw: raw.execute(sql))


def _functions() -> tuple[str, str]:
    text = "\n".join(files(package).joinpath("sql", name).read_text() for package, name in FUNCTIONS)
    return text, hashlib.sha256(text.encode()).hexdigest()


def _migrate(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    version = int(str(connection.exec_driver_sql("SHOW server_version_num").scalar_one()))
    if version < _OLDEST_SERVER:
        raise OldServer(f"PostgreSQL {version // 10000} is too old; 15 or newer is needed")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    text, digest = _functions()
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS sql_functions (digest text NOT NULL)")
    if connection.exec_driver_sql("SELECT digest FROM sql_functions").scalar() != digest:
        run_script(connection, text)
        connection.exec_driver_sql("DELETE FROM sql_functions")
        connection.exec_driver_sql(f"INSERT INTO sql_functions VALUES ('{digest}')")


async def migrate(url: str) -> None:
    """Bring the database to this version of the code, all or nothing; two at once wait for each other.

    Raises:
        OldServer: the server is older than PostgreSQL 15.
        OSError: the server is not reachable.
        asyncpg.PostgresError: the server refuses the user or has no such database.
    """
    # Connected here, so that a wrong password or name is the driver's error and not one wrapped by SQLAlchemy.
    raw = await asyncpg.connect(url, timeout=10)

    async def connected(*_: Any, **__: Any) -> asyncpg.Connection:
        return raw

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connected, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_migrate)
    finally:
        await engine.dispose()
        await raw.close()


def migrate_now(url: str) -> None:
    """`migrate` outside an event loop."""
    asyncio.run(migrate(url))
