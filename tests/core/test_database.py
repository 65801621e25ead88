"""The pool, transactions, patience, notifications and the jsonb codec, against a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from core import database as module
from core.database import UNAVAILABLE, Database, patiently
from tests.emptied import database, database_url, kept

__all__ = ["database", "database_url", "kept"]


async def terminate_all(database: Database) -> None:
    """What a restart of PostgreSQL does to open connections."""
    admin = await database.direct()
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await admin.close()


@pytest.fixture
async def numbers(database: Database) -> str:
    await database.execute("CREATE TABLE IF NOT EXISTS numbers (number int PRIMARY KEY)")
    await database.execute("TRUNCATE numbers")
    return "SELECT coalesce(array_agg(number ORDER BY number), '{}') FROM numbers"


async def test_rows_values_and_nothing(database: Database) -> None:
    rows = await database.fetch("SELECT n, n * 2 AS twice FROM generate_series(1, $1) AS n", 2)
    assert [dict(row) for row in rows] == [{"n": 1, "twice": 2}, {"n": 2, "twice": 4}]
    assert await database.fetch("SELECT 1 WHERE false") == []
    assert await database.fetch_row("SELECT 1 WHERE false") is None
    assert await database.fetch_value("SELECT 1 WHERE false") is None
    assert await database.fetch_value("SELECT NULL") is None


@pytest.mark.parametrize(
    "value", [{}, [], None, True, 0.1, 2**70, "ünï🌲", {"a": [1, {"b": None}]}, {"": "'; DROP TABLE job; --"}], ids=repr
)
async def test_json_comes_back_as_it_was(database: Database, value: Any) -> None:
    assert await database.fetch_value("SELECT $1::jsonb", value) == value
    assert await database.fetch_value("SELECT $1::json", value) == value


async def test_sql_null_is_not_json_null(database: Database) -> None:
    assert await database.fetch_value("SELECT $1::jsonb IS NULL", None)
    assert await database.fetch_value("SELECT jsonb_typeof($1::jsonb -> 'a')", {"a": None}) == "null"


async def test_what_postgresql_cannot_hold_is_refused_and_the_connection_lives_on(database: Database) -> None:
    for kind, value in (
        ("jsonb", float("nan")),
        ("jsonb", {"a": float("inf")}),
        ("jsonb", {"a": "\0"}),
        ("jsonb", {"\ud800": 1}),
        ("jsonb", {"a": {1, 2}}),
        ("text", "\0"),
        ("text", "\ud800"),
        ("int", 2**31),
        ("int", "1"),
    ):
        with pytest.raises(asyncpg.DataError):
            await database.fetch_value(f"SELECT $1::{kind}", value)
        assert await database.fetch_value("SELECT 1") == 1


async def test_a_transaction_commits_or_leaves_nothing(database: Database, numbers: str) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO numbers VALUES (1)")
        assert await database.fetch_value(numbers) == []
    assert await database.fetch_value(numbers) == [1]

    async def fail(error: BaseException) -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO numbers VALUES (2)")
            raise error

    for error in (ValueError("mine"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            await fail(error)
    assert await database.fetch_value(numbers) == [1]


async def test_a_cancelled_task_rolls_back_and_gives_its_connection_back(database_url: str, numbers: str) -> None:
    small = Database(database_url, size=1)
    await small.open()

    async def hang() -> None:
        async with small.transaction() as connection:
            await connection.execute("INSERT INTO numbers VALUES (7)")
            await connection.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(hang())
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await small.fetch_value(numbers) == []
    await small.close()


async def test_a_deferred_check_fails_at_the_commit(database: Database) -> None:
    async def write() -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO movement (kind, business_id) VALUES ('adjust', 'x')")

    with pytest.raises(asyncpg.PostgresError):
        await write()
    assert await database.fetch_value("SELECT count(*) FROM movement") == 0


async def test_a_full_pool_says_so_in_time(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ACQUIRE_SECONDS", 0.2)
    small = Database(database_url, size=1)
    await small.open()
    async with small.transaction():
        for call in (small.fetch, small.fetch_row, small.fetch_value, small.execute):
            with pytest.raises(TimeoutError):
                await call("SELECT 1")
    assert await small.fetch_value("SELECT 1") == 1
    await small.close()


async def test_a_database_that_is_not_open_says_so(database_url: str) -> None:
    closed = Database(database_url)
    with pytest.raises(UNAVAILABLE, match="not open"):
        await closed.fetch_value("SELECT 1")
    await closed.close()
    with pytest.raises(UNAVAILABLE):
        await Database("postgresql://nobody@127.0.0.1:1/nothing").open()


async def test_lost_connections_are_unavailable_once_and_then_new(database: Database) -> None:
    sleeping = asyncio.create_task(database.fetch_value("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.2)
    await terminate_all(database)
    with pytest.raises(UNAVAILABLE):
        await sleeping
    assert await patiently(lambda: database.fetch_value("SELECT 1")) == 1


class Flaky:
    """Fails with each of `errors` in turn, then answers."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


async def test_patience_outlasts_whatever_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.01)
    passing = (
        ConnectionRefusedError(),
        TimeoutError(),
        asyncio.IncompleteReadError(b"", 5),
        asyncpg.CannotConnectNowError("starting up"),
        asyncpg.AdminShutdownError("restart"),
        asyncpg.CrashShutdownError("crash"),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.DiskFullError("full"),
        asyncpg.DeadlockDetectedError("deadlock"),
        asyncpg.QueryCanceledError("statement timeout"),
        asyncpg.InterfaceError("connection is closed"),
    )
    call = Flaky(*passing)
    assert await patiently(call) == "answer"
    assert call.calls == len(passing) + 1


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DataError("wrong type"),
        asyncpg.UniqueViolationError("twice"),
        asyncpg.UndefinedTableError("no table"),
        ValueError("mine"),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_patience_ends_at_what_stays(error: BaseException) -> None:
    call = Flaky(error)
    with pytest.raises(type(error)):
        await patiently(call)
    assert call.calls == 1


async def test_patience_ends_with_its_caller() -> None:
    async def away() -> None:
        raise ConnectionRefusedError

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(patiently(away), 0.05)


async def test_notifications_come_in_order_from_their_channels_only(database: Database) -> None:
    listener = await database.listen("one", "two")
    for channel, payload in (("one", "a"), ("other", "x"), ("two", ""), ("one", "ü")):
        await database.execute("SELECT pg_notify($1, $2)", channel, payload)
    heard = [await asyncio.wait_for(anext(listener), 2) for _ in range(3)]
    assert heard == [("one", "a"), ("two", ""), ("one", "ü")]
    await listener.close()


async def test_a_rolled_back_notification_is_never_heard(database: Database) -> None:
    listener = await database.listen("one")
    async with database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT pg_notify('one', 'no')")
        await transaction.rollback()
    await database.execute("SELECT pg_notify('one', 'yes')")
    assert await asyncio.wait_for(anext(listener), 2) == ("one", "yes")
    await listener.close()


@pytest.mark.parametrize("how", ["closed", "lost"])
async def test_iteration_ends_with_its_connection_and_stays_ended(database: Database, how: str) -> None:
    listener = await database.listen("one")
    await database.execute("SELECT pg_notify('one', 'last')")
    heard = []

    async def hear() -> None:
        async for item in listener:
            heard.append(item)

    hearing = asyncio.create_task(hear())
    await asyncio.sleep(0.1)
    await (listener.close() if how == "closed" else terminate_all(database))
    await asyncio.wait_for(hearing, 2)
    assert heard == [("one", "last")]
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(listener), 2)
    await listener.close()


async def test_a_listener_that_cannot_listen_leaves_no_connection(database: Database) -> None:
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    before = await database.fetch_value(count)
    with pytest.raises(asyncpg.PostgresError):
        await database.listen("one", "\0")
    for _ in range(40):
        if await database.fetch_value(count) == before:
            break
        await asyncio.sleep(0.05)
    assert await database.fetch_value(count) == before


async def test_listening_goes_past_a_pooler(database_url: str) -> None:
    pooled = Database("postgresql://nobody@127.0.0.1:1/pooler", direct_url=database_url)
    connection = await pooled.direct()
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_closing_does_not_wait_for_work_that_hangs(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Database(database_url, size=1)
    await hanging.open()
    task = asyncio.create_task(hanging.fetch_value("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.2)
    real = asyncio.wait_for
    monkeypatch.setattr(asyncio, "wait_for", lambda work, seconds: real(work, min(seconds, 0.2)))
    await hanging.close()
    monkeypatch.undo()
    with pytest.raises(UNAVAILABLE):
        await task


async def test_a_call_is_one_round_trip_and_leaves_no_transaction_behind(database_url: str) -> None:
    database = Database(database_url, size=1)
    await database.open()
    sent: list[str] = []
    async with database.pool.acquire() as connection:
        connection.add_query_logger(lambda query: sent.append(query.query))
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                raise ZeroDivisionError
        await connection.execute("CREATE TEMPORARY TABLE mark ON COMMIT DROP AS SELECT 1")
    sent.clear()
    assert await database.fetch_value("SELECT 1") == 1
    assert await database.fetch_value("SELECT count(*) FROM pg_listening_channels()") == 0
    assert sent == ["SELECT 1", "SELECT count(*) FROM pg_listening_channels()"]
    await database.close()
