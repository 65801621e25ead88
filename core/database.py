"""PostgreSQL: the connection pool, transactions, and the errors that mean "try again later"."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import asyncpg

Connection: TypeAlias = Any
"""A connection of asyncpg, from the pool or not (asyncpg ships no types)."""

UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What asyncpg raises when the server is away, restarting or overloaded; never the caller's fault."""


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A pooled connection that is given back without asyncpg's reset query, a round trip of its own after every call.

    Nobody leaves anything on one: settings and locks are those of transactions, LISTEN has direct connections, and an open
    transaction is rolled back all the same.
    """

    def get_reset_query(self) -> str:
        """None."""
        return ""


async def _prepare(connection: asyncpg.Connection) -> None:
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


Result = TypeVar("Result")
_PATIENCE_SECONDS = 0.5
_ACQUIRE_SECONDS = 5.0
"""How long a call waits for a free connection before it fails with TimeoutError."""


async def patiently(call: Callable[[], Awaitable[Result]]) -> Result:
    """The result of `call`, tried again every half second while the database is away, for as long as the caller lives.

    Only for calls that may happen twice: the first one's commit can be lost on its way back.
    """
    while True:
        try:
            return await call()
        except UNAVAILABLE:
            await asyncio.sleep(_PATIENCE_SECONDS)


class Database:
    """A pool of connections to one PostgreSQL database; jsonb columns are Python values."""

    def __init__(self, url: str, *, direct_url: str | None = None, size: int = 8) -> None:
        self.url = url
        self.direct_url = direct_url or url
        self._size = size
        self._pool: asyncpg.Pool | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            OSError: the server is not reachable.
        """
        self._pool = await asyncpg.create_pool(
            self.url,
            min_size=1,
            max_size=self._size,
            init=_prepare,
            command_timeout=20,
            timeout=5,
            connection_class=_Connection,
        )

    async def close(self) -> None:
        """Give every connection back, waiting at most five seconds."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                await asyncio.wait_for(pool.close(), 5)
            except TimeoutError:
                pool.terminate()

    @property
    def pool(self) -> asyncpg.Pool:
        """The open pool."""
        if self._pool is None:
            raise asyncpg.InterfaceError("the database is not open")
        return self._pool

    def _acquired(self) -> Any:
        return self.pool.acquire(timeout=_ACQUIRE_SECONDS)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction that commits unless the block raises."""
        async with self._acquired() as connection, connection.transaction():
            yield connection

    async def fetch(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """All rows."""
        async with self._acquired() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(query, *values)
            return rows

    async def fetch_row(self, query: str, *values: Any) -> asyncpg.Record | None:
        """The first row, or None."""
        async with self._acquired() as connection:
            return await connection.fetchrow(query, *values)

    async def fetch_value(self, query: str, *values: Any) -> Any:
        """The first column of the first row, or None."""
        async with self._acquired() as connection:
            return await connection.fetchval(query, *values)

    async def execute(self, query: str, *values: Any) -> None:
        """Run a statement for its effect."""
        async with self._acquired() as connection:
            await connection.execute(query, *values)

    async def direct(self) -> Connection:
        """A connection of its own, outside the pool and past any pooler, for LISTEN and session locks."""
        return await asyncpg.connect(self.direct_url, timeout=5, command_timeout=20)

    async def listen(self, *channels: str) -> Listener:
        """A direct connection that hears NOTIFY on `channels`."""
        connection = await self.direct()
        listener = Listener(connection)
        try:
            for channel in channels:
                await connection.add_listener(channel, listener.heard)
        except BaseException:
            connection.terminate()
            raise
        return listener


class Listener:
    """Notifications of one connection, in order; iteration ends when the connection is lost or closed."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._queue: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
        connection.add_termination_listener(lambda _: self._queue.put_nowait(None))

    def heard(self, _connection: Connection, _pid: int, channel: str, payload: object) -> None:
        """Called by asyncpg for each notification."""
        self._queue.put_nowait((channel, str(payload)))

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> tuple[str, str]:
        """The next `(channel, payload)`."""
        item = await self._queue.get()
        if item is None:
            self._queue.put_nowait(None)
            raise StopAsyncIteration
        return item

    async def close(self) -> None:
        """Close the connection; a running iteration ends."""
        try:
            await self._connection.close(timeout=2)
        except UNAVAILABLE:
            self._connection.terminate()
