from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from alembic.command import upgrade

from core.database import Database
from core.errors import OperatorError
from jobs.leases import Leases
from jobs.models import Lease
from killatamata import migrate as migrations
from killatamata.embedded_postgres import EmbeddedPostgres
from killatamata.migrate import FUNCTIONS, OldServer, migrate, migrate_now
from tests.conftest import sibling
from tests.jobs.invariants import broken
from tests.jobs.world import DONE


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


# A database of the first version at work: of one account, jobs 1 to 3 run, the first is asked to stop and the third is with
# a dispatcher that died; 4 waits to be begun again, 5 to begin, and 6 is parked behind the account's concurrency.
OLD_ACCOUNT = UUID("018f0000-0000-7000-8000-00000000000a")
OLD_DATA = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0001');
INSERT INTO account (id, name, concurrency) VALUES ('018f0000-0000-7000-8000-00000000000a', 'old', 5),
  ('018f0000-0000-7000-8000-00000000000b', 'unused', 20);
INSERT INTO wallet (account_id, available, held) VALUES ('018f0000-0000-7000-8000-00000000000a', 40, 60),
  ('018f0000-0000-7000-8000-00000000000b', 0, 0);
INSERT INTO movement (kind, business_id, account_id) VALUES ('topup', 'stripe:1', '018f0000-0000-7000-8000-00000000000a');
INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after) VALUES (1, 1, 'clearing', NULL, -100, NULL),
  (1, 2, 'available', '018f0000-0000-7000-8000-00000000000a', 100, 100);
INSERT INTO pool (name, slots, clock) VALUES ('gpu', 5, 4);
INSERT INTO session (name, beat_at) VALUES ('alive', clock_timestamp()), ('dead', clock_timestamp() - interval '1 h');
INSERT INTO flow (account_id, pool, tag, turn, turns, active, parked)
  VALUES ('018f0000-0000-7000-8000-00000000000a', 'gpu', 6, 1, '{0,2.5,0}', 5, 1);
CREATE TEMPORARY TABLE given AS
  SELECT ('018f0000-0000-7000-8000-00000000000' || n)::uuid AS id, account.id AS account_id, place.*
  FROM account, (VALUES (1, 'leased', 1, 1, false), (2, 'leased', 1, 1, false), (3, 'leased', 2, 1, false),
    (4, 'ready', NULL, 2, true), (5, 'ready', NULL, 0, false), (6, 'parked', NULL, 0, false))
    AS place (n, state, session_id, fence, begun)
  WHERE name = 'old';
INSERT INTO hold (id, account_id, amount) SELECT id, account_id, 10 FROM given ORDER BY n;
INSERT INTO movement (kind, business_id, account_id, hold_id)
  SELECT 'hold', 'hold:' || id, account_id, id FROM given ORDER BY n;
INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after)
  SELECT n + 1, 1, 'available', account_id, -10, 100 - 10 * n FROM given
  UNION ALL SELECT n + 1, 2, 'held', account_id, 10, 10 * n FROM given;
INSERT INTO job (id, account_id, task, state, effective_input, input_adjustments, warnings, billing, amount, pools,
    session_id, fence, starts, sequence, request_id, balance_after, start_by, started_at, cancel_requested_at)
  SELECT id, account_id, 'image.generate', CASE state WHEN 'leased' THEN 'running' ELSE 'queued' END, '{"seed": 7}', '[]',
    '[]', '{}', 10, '{gpu}', session_id, fence, least(fence, 1), fence + 1 + (n = 1)::int, 'r', 100 - 10 * n, 'infinity',
    CASE WHEN fence > 0 THEN clock_timestamp() END, CASE n WHEN 1 THEN clock_timestamp() END FROM given;
INSERT INTO queue (job_id, account_id, pool, state, begun, class, turn, tag, cost)
  SELECT id, account_id, 'gpu', state, begun, 2, n * 0.25, CASE WHEN state <> 'parked' THEN n - 1 END, 1 FROM given;
INSERT INTO attempt (job_id, fence, session_id, ended_at, outcome)
  SELECT id, 1, coalesce(session_id, 2), CASE WHEN begun THEN clock_timestamp() END, CASE WHEN begun THEN 'handed_back' END
  FROM given WHERE fence > 0;
INSERT INTO event (job_id, seq, type, data)
  SELECT id, 1, 'state', '{"status": "queued"}'::jsonb FROM given
  UNION ALL SELECT id, 2, 'state', '{"status": "running"}' FROM given WHERE fence > 0
  UNION ALL SELECT id, 3, 'state', '{"status": "queued", "reason": "handed_back"}' FROM given WHERE begun
  UNION ALL SELECT id, 3, 'cancel_requested', '{}' FROM given WHERE n = 1;
"""
UNTOUCHED = (
    "SELECT job_id, account_id, pool, state, begun, class, turn, tag, cost FROM queue ORDER BY job_id",
    "SELECT account_id, pool, tag, turn, turns, active, parked FROM flow",
    "SELECT name, slots, paused, retired, clock FROM pool",
    "SELECT id, state, effective_input, billing, amount, pools, segment, session_id, fence, starts, attempts,"
    " sequence, request_id, start_by, created_at, started_at, cancel_requested_at FROM job ORDER BY id",
    "SELECT * FROM attempt ORDER BY job_id, fence",
    "SELECT * FROM event ORDER BY job_id, seq",
    "SELECT * FROM session ORDER BY id",
    "SELECT account_id, available, held, debt FROM wallet ORDER BY account_id",
    "SELECT * FROM hold ORDER BY id",
    "SELECT * FROM entry ORDER BY movement_id, seq",
)


async def test_an_upgrade_under_queued_and_running_jobs_keeps_each_where_it_is_and_they_all_end(empty: str) -> None:
    connection = await asyncpg.connect(empty)
    first = files("killatamata.migrations.versions").joinpath("0001_accounts_ledger_jobs.sql").read_text()
    await connection.execute(first + OLD_DATA)
    before = [await connection.fetch(query) for query in UNTOUCHED]
    await migrate(empty)
    assert [await connection.fetch(query) for query in UNTOUCHED] == before
    assert await connection.fetchval("SELECT count(DISTINCT hash) FROM movement WHERE hash IS NOT NULL") == 7
    await connection.close()

    database = Database(empty)
    await database.open()
    await database.execute(
        "CREATE OR REPLACE FUNCTION restart_grace() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '0' $$"
    )
    assert await broken(database) == [], "the chains, too"
    first_three = [
        Lease(row["id"], 1, OLD_ACCOUNT, "image.generate", 0, {"seed": 7}, None, "r")
        for row in await database.fetch("SELECT id FROM job WHERE state = 'running' ORDER BY id")
    ]
    asked, done, orphan = first_three
    leases = Leases(database)
    await leases.beat(1)
    assert [await leases.settle(each, "succeeded", DONE) for each in (asked, done)] == ["cancelled", "succeeded"]
    assert await leases.settle(orphan, "succeeded", DONE) == "stale", "its dispatcher died"

    session = await leases.open_session("new")
    claimed = await leases.claim("gpu", 32, session)
    assert [(each.job_id.int % 16, each.fence) for each in claimed] == [(4, 3), (3, 3), (5, 1), (6, 1)]
    assert {each.effective_input["seed"] for each in claimed} == {7}
    for each in claimed:
        assert await leases.settle(each, "succeeded", DONE) == "succeeded"
    assert await database.fetch_value("SELECT count(*) FROM queue") == 0
    wallet = await database.fetch_row("SELECT available, held, debt FROM wallet WHERE account_id = $1", OLD_ACCOUNT)
    assert wallet is not None
    assert tuple(wallet) == (50, 0, 0), "five of six jobs charged"
    assert await broken(database) == []
    await database.close()
