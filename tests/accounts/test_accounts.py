"""Accounts and their wallets."""

from __future__ import annotations

from uuid import uuid4

import pytest

from accounts import accounts
from billing import wallets
from billing.wallets import Balance
from core.database import Database


async def test_an_account_begins_with_an_empty_wallet(database: Database) -> None:
    async with database.transaction() as connection:
        made = await accounts.create(connection, "  Ada  ")
    assert (made.name, made.concurrency, made.queue_limit) == ("Ada", 20, 10_000)
    assert await accounts.find(database, made.id) == made
    assert await wallets.balance(database, made.id) == Balance(0, 0, 0)


async def test_a_name_has_1_to_200_characters(database: Database) -> None:
    async with database.transaction() as connection:
        for name in ("", "   ", "x" * 201):
            with pytest.raises(ValueError, match="1 to 200"):
                await accounts.create(connection, name)
    assert await database.fetch_value("SELECT count(*) FROM account") == 0


async def test_nobody_is_found_under_an_unknown_id(database: Database) -> None:
    assert await accounts.find(database, uuid4()) is None


async def test_limits_are_changed_each_by_itself_and_audited(database: Database) -> None:
    async with database.transaction() as connection:
        made = await accounts.create(connection, "Ada")
        other = await accounts.create(connection, "Bob")
        changed = await accounts.set_limits(connection, made.id, actor="op@here", concurrency=1)
        assert changed is not None
        assert (changed.concurrency, changed.queue_limit) == (1, 10_000)
        await accounts.set_limits(connection, made.id, actor="op@here", reason="why not", queue_limit=1)
    found = await accounts.find(database, made.id)
    assert found is not None
    assert (found.concurrency, found.queue_limit) == (1, 1)
    assert await accounts.find(database, other.id) == other
    rows = await database.fetch(
        "SELECT actor, reason, before, after FROM audit WHERE action = 'account.limits' ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [
        ("op@here", None, {"concurrency": 20, "queueLimit": 10_000}, {"concurrency": 1, "queueLimit": 10_000}),
        ("op@here", "why not", {"concurrency": 1, "queueLimit": 10_000}, {"concurrency": 1, "queueLimit": 1}),
    ]


@pytest.mark.parametrize("limit", [0, -1, 10**10])
@pytest.mark.parametrize("name", ["concurrency", "queue_limit"])
async def test_a_limit_below_one_or_beyond_reason_is_refused(database: Database, name: str, limit: int) -> None:
    async with database.transaction() as connection:
        made = await accounts.create(connection, "Ada")
        with pytest.raises(ValueError, match=r"is 1 to \d+, not"):
            await accounts.set_limits(
                connection,
                made.id,
                actor="op@here",
                concurrency=limit if name == "concurrency" else None,
                queue_limit=limit if name == "queue_limit" else None,
            )
    assert await accounts.find(database, made.id) == made
    assert await database.fetch_value("SELECT count(*) FROM audit") == 0


async def test_nobody_has_no_limits(database: Database) -> None:
    async with database.transaction() as connection:
        assert await accounts.set_limits(connection, uuid4(), actor="op@here", concurrency=5) is None
    assert await database.fetch_value("SELECT count(*) FROM audit") == 0
