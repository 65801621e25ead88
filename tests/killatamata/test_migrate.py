from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import asyncpg
import pytest
from alembic.command import upgrade

from core.database import Database
from core.errors import OperatorError
from killatamata import migrate as migrations
from killatamata.embedded_postgres import EmbeddedPostgres
from killatamata.migrate import FUNCTIONS, OldServer, migrate, migrate_now
from tests.conftest import sibling


@pytest.fixture
async def empty(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The URL of a database without anything in it."""
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute("CREATE DATABASE empty_one")
    yield sibling(postgres.dsn, "empty_one")
    await admin.execute("DROP DATABASE empty_one WITH (FORCE)")
    await admin.close()


async def seen(url: str) -> dict[str, Any]:
    """The tables, and the functions with their sources."""
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        functions = await connection.fetch(
            "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
    finally:
        await connection.close()
    return {"tables": {row["relname"] for row in tables}, **{row["proname"]: row["prosrc"] for row in functions}}


async def test_an_empty_database_becomes_whole_and_a_second_time_changes_nothing(empty: str) -> None:
    await migrate(empty)
    first = await seen(empty)
    assert {"account", "wallet", "job", "queue", "entry", "alembic_version"} <= first["tables"]
    assert {"submit", "claim", "settle", "hold_open", "topup", "permitted"} <= set(first)
    connection = await asyncpg.connect(empty)
    created = await connection.fetchval("SELECT xmin FROM pg_proc WHERE proname = 'settle'")
    await migrate(empty)
    assert await seen(empty) == first
    assert await connection.fetchval("SELECT xmin FROM pg_proc WHERE proname = 'settle'") == created
    await connection.close()


async def test_many_at_once_wait_for_each_other(empty: str) -> None:
    await asyncio.gather(*(migrate(empty) for _ in range(5)))
    connection = await asyncpg.connect(empty)
    assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
    assert await connection.fetchval("SELECT count(*) FROM sql_functions") == 1
    await connection.close()


async def test_functions_are_applied_again_when_their_text_changes_and_only_then(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.execute(
        "CREATE OR REPLACE FUNCTION session_expiry() RETURNS interval LANGUAGE sql IMMUTABLE"
        " AS $$ SELECT interval '1 day' $$"
    )
    await migrate(database_url)
    assert (await database.fetch_value("SELECT session_expiry()")).days == 1, "the same text is not applied again"
    text, _ = migrations._functions()
    monkeypatch.setattr(migrations, "_functions", lambda: (f"{text}\n-- a new line", "another digest"))
    await migrate(database_url)
    assert (await database.fetch_value("SELECT session_expiry()")).days == 0
    assert [row["digest"] for row in await database.fetch("SELECT digest FROM sql_functions")] == ["another digest"]


async def test_a_migration_that_breaks_leaves_nothing_of_itself(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = migrations._functions()
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "_functions", lambda: (f"{text}\nSELECT no_such_function();", "broken"))
        with pytest.raises(asyncpg.UndefinedFunctionError):
            await migrate(empty)
    assert await seen(empty) == {"tables": set()}
    await migrate(empty)
    assert "settle" in await seen(empty)


async def test_an_old_server_is_refused_in_words(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The server here is new, so the bar is raised instead.
    monkeypatch.setattr(migrations, "_OLDEST_SERVER", 990000)
    with pytest.raises(OldServer, match=r"PostgreSQL \d+ is too old; 15 or newer is needed") as old:
        await migrate(empty)
    assert isinstance(old.value, OperatorError)
    assert await seen(empty) == {"tables": set()}


async def test_a_server_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(OSError, match="Connect call failed"):
        await migrate("postgresql://nobody@127.0.0.1:1/none")


def test_it_also_runs_outside_a_loop(empty: str) -> None:
    migrate_now(empty)
    assert "settle" in asyncio.run(seen(empty))


def test_every_file_of_functions_is_applied() -> None:
    from importlib.resources import files

    applied = set(FUNCTIONS)
    for package in ("accounts", "billing", "jobs"):
        for path in files(package).joinpath("sql").iterdir():
            assert (package, path.name) in applied


async def test_an_upgrade_leaves_one_function_of_each_name(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        # The functions of the version before, as far as their arguments have changed since.
        patch.setattr(migrations, "_functions", lambda: ("SELECT 1", "none"))
        patch.setattr("alembic.command.upgrade", lambda config, _: upgrade(config, "0004"))
        await migrate(empty)
    connection = await asyncpg.connect(empty)
    await connection.execute("CREATE FUNCTION cancel_due() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'")
    await migrate(empty)
    twice = "SELECT proname FROM pg_proc WHERE proname = ANY ($1) GROUP BY proname HAVING count(*) > 1"
    assert await connection.fetch(twice, ["cancel_due", "submit", "cancel", "job_end", "hand_back"]) == []
    assert await connection.fetchval("SELECT cancel_due(20, interval '1 s')") is None
    await connection.close()


async def test_an_upgrade_lets_attempts_go_with_their_jobs(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "_functions", lambda: ("SELECT 1", "none"))
        patch.setattr("alembic.command.upgrade", lambda config, _: upgrade(config, "0007"))
        await migrate(empty)
    connection = await asyncpg.connect(empty)
    # As the functions of 0007 had it.
    await connection.execute(
        """CREATE FUNCTION transition_refused() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no way''; END';
        CREATE TRIGGER attempt_last_state BEFORE DELETE ON attempt
          FOR EACH ROW WHEN (NOT OLD.ended_at IS NULL) EXECUTE FUNCTION transition_refused('ended_at')"""
    )
    await migrate(empty)
    found = await connection.fetch(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'attempt'::regclass AND NOT tgisinternal"
    )
    assert {row["tgname"] for row in found} == {"attempt_first_state", "attempt_transition"}
    await connection.close()


async def test_movements_from_before_the_chain_are_chained_and_queued_jobs_stay(empty: str) -> None:
    connection = await asyncpg.connect(empty)
    first = files("killatamata.migrations.versions").joinpath("0001_accounts_ledger_jobs.sql").read_text()
    await connection.execute(first)
    await connection.execute(
        """CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
        INSERT INTO alembic_version VALUES ('0001');
        INSERT INTO account (id, name) VALUES ('018f0000-0000-7000-8000-000000000001', 'old'),
          ('018f0000-0000-7000-8000-000000000002', 'unused');
        INSERT INTO wallet (account_id, available, held) VALUES ('018f0000-0000-7000-8000-000000000001', 90, 10),
          ('018f0000-0000-7000-8000-000000000002', 0, 0);
        INSERT INTO hold (id, account_id, amount)
          VALUES ('018f0000-0000-7000-8000-000000000003', '018f0000-0000-7000-8000-000000000001', 10);
        INSERT INTO movement (kind, business_id, account_id) VALUES
          ('topup', 'stripe:1', '018f0000-0000-7000-8000-000000000001'),
          ('hold', 'hold:1', '018f0000-0000-7000-8000-000000000001');
        INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after) VALUES
          (1, 1, 'clearing', NULL, -100, NULL), (1, 2, 'available', '018f0000-0000-7000-8000-000000000001', 100, 100),
          (2, 1, 'available', '018f0000-0000-7000-8000-000000000001', -10, 90),
          (2, 2, 'held', '018f0000-0000-7000-8000-000000000001', 10, 10);
        INSERT INTO pool (name) VALUES ('gpu');
        INSERT INTO job (id, account_id, task, effective_input, input_adjustments, warnings, billing, amount, pools,
            request_id, balance_after, start_by) VALUES ('018f0000-0000-7000-8000-000000000003',
            '018f0000-0000-7000-8000-000000000001', 'image.generate', '{}', '[]',
            '[]', '{}', 10, '{gpu}', 'r', 90, 'infinity')"""
    )
    await migrate(empty)
    assert await connection.fetchval("SELECT count(*) FROM wallet WHERE chain_break(account_id) IS NOT NULL") == 0
    assert await connection.fetchval("SELECT count(DISTINCT hash) FROM movement WHERE hash IS NOT NULL") == 2
    assert await connection.fetchval("SELECT state FROM job") == "queued"
    await connection.close()
