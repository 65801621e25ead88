"""Price books as rows, so that every ingress quotes from the same one."""

from __future__ import annotations

import time

from core.database import Connection, Database
from pricing.book import PriceBook

_FRESH_SECONDS = 5.0
_CURRENT = "SELECT version FROM price_book WHERE active_from <= clock_timestamp() ORDER BY active_from DESC LIMIT 1"


async def publish(connection: Connection, book: PriceBook) -> bool:
    """Make `book` the active one; False when it already is. An older version may come back.

    Raises:
        ValueError: the version exists with other prices: a version never changes.
    """
    added = await connection.fetchval(
        "INSERT INTO price_book (version, body) VALUES ($1, $2) ON CONFLICT (version) DO NOTHING RETURNING true",
        book.version,
        book.as_json(),
    )
    if added:
        return True
    known = await connection.fetchval("SELECT body FROM price_book WHERE version = $1", book.version)
    if PriceBook.from_row(known) != book:
        raise ValueError(f"price book {book.version} exists with other prices; give the new prices a new version")
    if await connection.fetchval(_CURRENT) == book.version:
        return False
    await connection.execute("UPDATE price_book SET active_from = clock_timestamp() WHERE version = $1", book.version)
    return True


async def current_version(connection: Connection) -> str | None:
    """The version that is in force, or None when no book was ever published."""
    version: str | None = await connection.fetchval(_CURRENT)
    return version


class PriceBooks:
    """Reads price books; the active one is looked up again after five seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, PriceBook] = {}
        self._current: tuple[float, PriceBook] | None = None

    async def current(self) -> PriceBook:
        """The book that prices new quotes.

        Raises:
            LookupError: no book was ever published.
        """
        if self._current is not None and time.monotonic() - self._current[0] < _FRESH_SECONDS:
            return self._current[1]
        version = await self._database.fetch_value(_CURRENT)
        if version is None:
            raise LookupError("no price book is published; killatamata up publishes one")
        book = await self.version(version)
        self._current = (time.monotonic(), book)
        return book

    async def version(self, version: str) -> PriceBook:
        """The book of that version; versions never change, so each is read once.

        Raises:
            LookupError: there is no such version.
        """
        if version not in self._known:
            body = await self._database.fetch_value("SELECT body FROM price_book WHERE version = $1", version)
            if body is None:
                raise LookupError(f"no price book {version}")
            self._known[version] = PriceBook.from_row(body)
        return self._known[version]
