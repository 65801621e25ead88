"""`killatamata prices`: the operator's price book, checked and put into force."""

from __future__ import annotations

from pathlib import Path

from billing import price_books
from core.database import Database
from core.errors import OperatorError
from pricing.book import PriceBook, PriceBookInvalid


def load(path: Path) -> PriceBook:
    """The price book in the TOML file at `path`.

    Raises:
        OperatorError: the file cannot be read, or is no price book; the message names every fault.
    """
    try:
        return PriceBook.parse(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path} cannot be read: {error}") from None
    except PriceBookInvalid as error:
        raise OperatorError(f"{path}: {error}") from None


async def publish(database: Database, path: Path) -> str:
    """Put the price book at `path` into force, and say what happened.

    New quotes go by it within five seconds, in every process; what is already quoted or held keeps its price.

    Raises:
        OperatorError: the file is no price book, or its version exists with other prices.
    """
    book = load(path)
    async with database.transaction() as connection:
        try:
            changed = await price_books.publish(connection, book)
        except ValueError as error:
            raise OperatorError(str(error)) from None
    return f"price book {book.version} {'is in force now' if changed else 'was in force already'}"
