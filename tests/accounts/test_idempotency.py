"""Idempotency: the first answer again, for 24 hours, to the same body only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from accounts import accounts
from accounts.idempotency import Replay, begin, record, remove_expired, translated
from core.database import Database
from core.errors import IdempotencyConflict, IdempotencyInProgress

ROUTE, BODY, OTHER_BODY = "POST /things", b"a" * 32, b"b" * 32
ANSWER = {"id": "thing_1", "label": "ünï"}


@pytest.fixture
async def owner(database: Database) -> UUID:
    async with database.transaction() as connection:
        return (await accounts.create(connection, "someone")).id


async def once(database: Database, owner: UUID, *, body: bytes = BODY, key: str = "k", route: str = ROUTE) -> Any:
    """One write: None when it was done now, the replay otherwise."""
    async with database.transaction() as connection:
        replay = await begin(connection, owner, route, key, body)
        if replay is None:
            await record(connection, owner, route, key, 201, ANSWER)
        return replay


async def test_the_first_answer_is_given_again(database: Database, owner: UUID) -> None:
    assert await once(database, owner) is None
    assert await once(database, owner) == Replay(201, ANSWER)
    assert await once(database, owner) == Replay(201, ANSWER)


async def test_another_body_is_a_conflict(database: Database, owner: UUID) -> None:
    await once(database, owner)
    with pytest.raises(IdempotencyConflict):
        await once(database, owner, body=OTHER_BODY)
    assert await once(database, owner) == Replay(201, ANSWER)


async def test_keys_are_apart_by_account_route_and_key(database: Database, owner: UUID) -> None:
    async with database.transaction() as connection:
        other = (await accounts.create(connection, "other")).id
    await once(database, owner)
    assert await once(database, other, body=OTHER_BODY) is None
    assert await once(database, owner, body=OTHER_BODY, route="POST /others") is None
    assert await once(database, owner, body=OTHER_BODY, key="K") is None


async def test_a_write_that_fails_frees_its_key(database: Database, owner: UUID) -> None:
    async with database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert await begin(connection, owner, ROUTE, "k", BODY) is None
        await transaction.rollback()
    assert await once(database, owner, body=OTHER_BODY) is None


async def test_a_key_is_forgotten_after_24_hours(database: Database, owner: UUID) -> None:
    await once(database, owner)
    await database.execute("UPDATE idempotency SET created_at = now() - interval '23 hours 59 minutes'")
    assert await once(database, owner) is not None
    await database.execute("UPDATE idempotency SET created_at = now() - interval '24 hours 1 second'")
    assert await once(database, owner, body=OTHER_BODY) is None
    assert await once(database, owner, body=OTHER_BODY) == Replay(201, ANSWER)


async def test_a_twin_waits_for_the_first_and_replays_it(database: Database, owner: UUID) -> None:
    async with database.transaction() as connection:
        await begin(connection, owner, ROUTE, "k", BODY)
        twin = asyncio.create_task(once(database, owner))
        await asyncio.sleep(0.1)
        assert not twin.done()
        await record(connection, owner, ROUTE, "k", 201, ANSWER)
    assert await twin == Replay(201, ANSWER)


async def test_a_twin_goes_on_when_the_first_rolls_back(database: Database, owner: UUID) -> None:
    async with database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await begin(connection, owner, ROUTE, "k", BODY)
        twin = asyncio.create_task(once(database, owner))
        await asyncio.sleep(0.1)
        assert not twin.done()
        await transaction.rollback()
    assert await twin is None


@pytest.fixture
async def impatient(database: Database) -> AsyncIterator[None]:
    await database.execute("ALTER FUNCTION idempotency_begin SET lock_timeout = '100ms'")
    yield
    await database.execute("ALTER FUNCTION idempotency_begin SET lock_timeout = '10s'")


@pytest.mark.usefixtures("impatient")
async def test_a_twin_that_waited_too_long_is_told_so(database: Database, owner: UUID) -> None:
    async with database.transaction() as connection:
        await begin(connection, owner, ROUTE, "k", BODY)
        for body in (BODY, OTHER_BODY):
            with pytest.raises(IdempotencyInProgress) as caught:
                await once(database, owner, body=body)
            assert caught.value.headers["Retry-After"] == "2"
        await record(connection, owner, ROUTE, "k", 201, ANSWER)
    assert await once(database, owner) == Replay(201, ANSWER)


async def test_the_wait_of_a_twin_does_not_shorten_other_waits(database: Database, owner: UUID) -> None:
    async with database.transaction() as connection:
        await begin(connection, owner, ROUTE, "k", BODY)
        assert await connection.fetchval("SHOW lock_timeout") == "0"


async def test_50_at_once_write_once(database: Database, owner: UUID) -> None:
    answers = await asyncio.gather(*(once(database, owner) for _ in range(50)))
    assert answers.count(None) == 1
    assert answers.count(Replay(201, ANSWER)) == 49


async def test_other_errors_stay_what_they_are(database: Database) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await database.execute("SELECT 1 / 0")
    assert translated(caught.value) is caught.value
    assert isinstance(translated(ValueError()), ValueError)


async def test_records_whose_window_is_over_are_removed(database: Database, owner: UUID) -> None:
    for number in range(5):
        await once(database, owner, key=f"old-{number}")
    await database.execute("UPDATE idempotency SET created_at = created_at - interval '24 hours'")
    await once(database, owner, key="new")
    assert await remove_expired(database, batch=2) == 5
    assert [row["key"] for row in await database.fetch("SELECT key FROM idempotency")] == ["new"]
    assert await once(database, owner, key="new") == Replay(201, ANSWER)
    assert await remove_expired(database) == 0


async def test_a_record_taken_over_meanwhile_stays(database: Database, owner: UUID) -> None:
    await once(database, owner)
    await database.execute("UPDATE idempotency SET created_at = created_at - interval '25 hours'")
    async with database.transaction() as connection:
        assert await begin(connection, owner, ROUTE, "k", OTHER_BODY) is None
        assert await remove_expired(database) == 0
        await record(connection, owner, ROUTE, "k", 201, ANSWER)
    assert await once(database, owner, body=OTHER_BODY) == Replay(201, ANSWER)
