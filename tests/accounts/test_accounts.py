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
