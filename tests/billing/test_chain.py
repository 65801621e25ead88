"""The hash chain, as Python and as SQL compute it."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from accounts import accounts
from billing import statements, wallets
from billing.chain import GENESIS, Entry, Movement, holds, link
from core.database import Database
from core.ids import uuid7
from core.money import MICROS_PER_USD

AT = datetime(2026, 11, 23, 10, 0, 0, 123456, UTC)
ENTRIES = (Entry("available", -5, 95), Entry("held", 5, 5))
MADE = Movement(1, "hold", "hold:x", AT, None, ENTRIES, GENESIS, link(GENESIS, "hold", AT, ENTRIES, "hold:x"))


def test_a_movement_follows_from_what_it_says() -> None:
    assert holds(MADE)
    said = b"hold|1795428000123456|available:-5:95;held:5:5|hold:x"
    assert MADE.hash == hashlib.sha256(bytes(32) + said).digest()


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "capture"},
        {"business_id": "hold:y"},
        {"created_at": AT.replace(microsecond=123457)},
        {"entries": (Entry("available", -5, 94), Entry("held", 5, 5))},
        {"entries": (Entry("held", 5, 5), Entry("available", -5, 95))},
        {"previous_hash": b"\1" + bytes(31)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_is_changed_breaks_it(changed: dict[str, Any]) -> None:
    assert not holds(replace(MADE, **changed))


def test_entries_that_do_not_sum_to_zero_never_hold() -> None:
    entries = (Entry("available", -5, 95),)
    sealed = link(GENESIS, "hold", AT, entries, "hold:x")
    assert not holds(replace(MADE, entries=entries, hash=sealed))


async def test_postgresql_chains_as_python_does_even_in_a_crowd(database: Database) -> None:
    async with database.transaction() as connection:
        account = (await accounts.create(connection, "customer")).id
        await wallets.topup(connection, account, MICROS_PER_USD, "stripe:ü|1")
        await wallets.chargeback(connection, account, MICROS_PER_USD + 7, "dispute:1")
        await wallets.topup(connection, account, MICROS_PER_USD, "stripe:2")

    async def hold_and_end(number: int) -> list[Movement]:
        hold = uuid7()
        await database.execute("SELECT hold_open($1, $2, 10, 'req')", hold, account)
        await database.execute("SELECT hold_settle($1, $2, 'req')", hold, number % 2 == 0)
        return await statements.movements_of(database, account, hold)

    pairs = await asyncio.gather(*(hold_and_end(number) for number in range(20)))
    assert [len(pair) for pair in pairs] == [2] * 20
    assert all(holds(movement) for pair in pairs for movement in pair)
    assert len({movement.previous_hash for pair in pairs for movement in pair}) == 40
    assert await database.fetch_value("SELECT chain_break($1)", account) is None
    assert await wallets.drift(database) == []


async def test_a_wallet_that_ends_elsewhere_is_a_break(database: Database) -> None:
    async with database.transaction() as connection:
        account = (await accounts.create(connection, "customer")).id
        await wallets.topup(connection, account, 5, "stripe:1")
    await database.execute("UPDATE wallet SET chain = sha256('elsewhere')")
    assert await database.fetch_value("SELECT chain_break($1)", account) == 0
