"""Price books as rows: published once, never changed, the newest active one prices."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from billing import price_books
from billing.price_books import PriceBooks, publish
from core.database import Database
from pricing.book import SHIPPED, PriceBook

BUILT_IN = PriceBook.built_in()


def book(version: str, rate: str = "0.02") -> PriceBook:
    rates = BUILT_IN.image_generate.model_copy(update={"usd_per_megapixel": Decimal(rate)})
    return BUILT_IN.model_copy(update={"version": version, "image_generate": rates})


async def put(database: Database, new: PriceBook) -> bool:
    async with database.transaction() as connection:
        return await publish(connection, new)


async def test_a_book_is_published_once_and_read_back_exactly(database: Database) -> None:
    assert await put(database, BUILT_IN)
    assert not await put(database, BUILT_IN)
    assert await PriceBooks(database).current() == BUILT_IN
    assert await database.fetch_value("SELECT count(*) FROM price_book") == 1


async def test_other_prices_under_the_same_version_are_refused(database: Database) -> None:
    await put(database, book("a", "0.02"))
    with pytest.raises(ValueError, match="other prices"):
        await put(database, book("a", "0.03"))
    assert await PriceBooks(database).version("a") == book("a", "0.02")


async def test_no_book_at_all_says_what_to_do(database: Database) -> None:
    with pytest.raises(LookupError, match="killatamata up"):
        await PriceBooks(database).current()


async def test_an_unknown_version_is_not_remembered_as_such(database: Database) -> None:
    books = PriceBooks(database)
    with pytest.raises(LookupError, match="no price book b"):
        await books.version("b")
    await put(database, book("b"))
    assert (await books.version("b")).version == "b"


async def test_the_newest_active_book_prices_and_older_ones_stay(database: Database) -> None:
    await put(database, book("a", "0.02"))
    await put(database, book("b", "0.05"))
    books = PriceBooks(database)
    assert (await books.current()).version == "b"
    assert (await books.version("a")).image_generate.usd_per_megapixel == Decimal("0.02")
    await database.execute("UPDATE price_book SET active_from = now() + interval '1 hour' WHERE version = 'b'")
    assert (await PriceBooks(database).current()).version == "a"


async def test_an_older_book_can_come_back(database: Database) -> None:
    for version in ("a", "b"):
        await put(database, book(version))
    assert await put(database, book("a"))
    assert not await put(database, book("a"))
    assert (await PriceBooks(database).current()).version == "a"


async def test_the_current_book_is_looked_up_again_when_it_is_stale(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(database, book("a"))
    books = PriceBooks(database)
    await books.current()
    await put(database, book("b"))
    assert (await books.current()).version == "a"
    monkeypatch.setattr(price_books, "_FRESH_SECONDS", 0.0)
    assert (await books.current()).version == "b"


async def test_ten_publish_at_once(database: Database) -> None:
    assert sum(await asyncio.gather(*(put(database, BUILT_IN) for _ in range(10)))) == 1


async def test_the_version_in_force_is_told(database: Database) -> None:
    async with database.transaction() as connection:
        assert await price_books.current_version(connection) is None
        await price_books.publish(connection, PriceBook.built_in())
        assert await price_books.current_version(connection) == PriceBook.built_in().version
    assert PriceBook.built_in().version in SHIPPED
