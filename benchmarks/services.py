"""What is measured: an embedded PostgreSQL in a temporary folder, migrated databases in it, and real server processes."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import httpx

from accounts import accounts
from accounts.keys import Keys
from api.server import listen
from benchmarks.processes import ROOT, clean_environment
from billing import price_books, wallets
from core.database import Database
from core.settings import PREFIX
from jobs import pools
from killatamata.embedded_postgres import MAJOR, EmbeddedPostgres
from killatamata.migrate import migrate
from pricing.book import PriceBook

CREDIT = 10**15
_SECRET = "benchmark" * 4
_START_SECONDS = 60
_STOP_SECONDS = 15


@contextmanager
def running_postgres() -> Iterator[EmbeddedPostgres]:
    """A server as `killatamata up` runs it, on an empty folder that is removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="kt"))
    sockets = folder / "s"
    sockets.mkdir(mode=0o700)
    server = EmbeddedPostgres(folder / f"pg{MAJOR}", sockets)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


async def administer(postgres: EmbeddedPostgres, *statements: str) -> None:
    """Run statements that stand outside a transaction."""
    connection = await asyncpg.connect(postgres.dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def url_of(postgres: EmbeddedPostgres, name: str) -> str:
    """The URL of the server's database `name`."""
    return urlunsplit(urlsplit(postgres.dsn)._replace(path=f"/{name}"))


@asynccontextmanager
async def created(postgres: EmbeddedPostgres, name: str, template: str | None = None) -> AsyncIterator[None]:
    """A database with every table and function, or a copy of `template`; dropped in the end."""
    if template is None:
        await administer(postgres, f"CREATE DATABASE {name}")
        await migrate(url_of(postgres, name))
    else:
        await administer(postgres, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield
    await administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def opened(postgres: EmbeddedPostgres, name: str, size: int = 4) -> AsyncIterator[Database]:
    """An existing database, open."""
    database = Database(url_of(postgres, name), size=size)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@dataclass(frozen=True)
class Customer:
    """An account with credit, without a queue limit to speak of, and with a key."""

    account_id: UUID
    key: str


@dataclass(frozen=True)
class Ingress:
    """A running ingress, its process and who may call it."""

    port: int
    pid: int
    customers: tuple[Customer, ...]


@contextmanager
def service_settings(url: str) -> Iterator[dict[str, str]]:
    """The environment of every process of a service on that database; its data folder is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="kt") as folder:
        yield {
            f"{PREFIX}DATA_DIR": folder,
            f"{PREFIX}DATABASE_URL": url,
            f"{PREFIX}PUBLIC_URL": "http://127.0.0.1",
            f"{PREFIX}SECRET_KEY": _SECRET,
            f"{PREFIX}LOG_LEVEL": "warning",
        }


@asynccontextmanager
async def running_ingress(database: Database, customers: int) -> AsyncIterator[Ingress]:
    """`python -m api` in front of a fleet that runs nothing; its default settings, but with limits out of reach."""
    keys = Keys(database, _SECRET.encode())
    made = []
    async with database.transaction() as connection:
        await price_books.publish(connection, PriceBook.built_in())
        for _ in range(customers):
            account = await accounts.create(connection, "benchmark")
            await wallets.topup(connection, account.id, CREDIT, f"benchmark:{account.id}")
            key, _ = await keys.create(connection, account.id, "benchmark")
            made.append(Customer(account.id, key))
        await connection.execute("UPDATE account SET queue_limit = 1000000000")
    await pools.declare(database, frozenset({"qwen-image"}))
    limits = {f"{PREFIX}{kind}_PER_MINUTE": str(10**9) for kind in ("READS", "WRITES")}
    with service_settings(database.url) as environment:
        async with running_server(("-m", "api", "--fd"), (), "/api/v1/health", environment | limits) as server:
            yield Ingress(server.port, server.pid, tuple(made))


@dataclass(frozen=True)
class Server:
    """A running server process."""

    port: int
    pid: int


@asynccontextmanager
async def running_server(
    before: Sequence[str], after: Sequence[str], path: str, environment: dict[str, str]
) -> AsyncIterator[Server]:
    """`python <before> <number of a listening socket> <after>`, once it answers 200 on `path`."""
    with listen("127.0.0.1", 0) as listening:
        port: int = listening.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *before, str(listening.fileno()), *after),
            cwd=ROOT,
            env=clean_environment() | environment,
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_START_SECONDS) as client:
            (await client.get(f"http://127.0.0.1:{port}{path}")).raise_for_status()
        yield Server(port, process.pid)
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
