"""The real ingress over a real database; accounts with money; and a server in the place of cdn.example.com."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import asyncpg
import httpx
import pytest

from accounts import accounts
from accounts.keys import Keys
from api.app import create_app
from billing import price_books, wallets
from core.database import Database
from core.settings import Settings
from jobs import pools
from killatamata.embedded_postgres import EmbeddedPostgres
from pricing.book import PriceBook
from tests.conftest import sibling

ROOT = Path(__file__).parents[2]
BASE = "https://api.example.test"
CREDIT = 10_000_000
SECRET = "s" * 32
POOLS = [
    "qwen-image",
    "qwen-image-edit",
    "ltx-video",
    "rife",
    "cpu",
    "qwen-tts",
    "whisper",
    "ace-step",
    "moss",
    "trellis",
]
_numbers = itertools.count()


@dataclass(frozen=True)
class Caller:
    """An account with money and a client that sends its key."""

    account_id: Any
    key: str
    http: httpx.AsyncClient


class Newcomer(Protocol):
    """Makes a fresh account with `credit` micro-dollars."""

    async def __call__(self, credit: int = ...) -> Caller: ...


@pytest.fixture(scope="module")
async def database_url(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The URL of a database for the whole module; every test has accounts of its own."""
    name = f"acceptance_{next(_numbers)}"
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield sibling(postgres.dsn, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    """The same database, open."""
    opened = Database(database_url, size=20)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
async def ingress(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """The application as a worker process makes it, started."""
    folder = tmp_path_factory.mktemp("acceptance")
    settings = Settings(data_dir=folder, database_url=database_url, secret_key=SECRET, public_url=BASE)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
def address(database_url: str, tmp_path: Path) -> Iterator[str]:
    """The base URL of an ingress that runs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        settings = {
            "PYTHONPATH": str(ROOT),
            "KILLATAMATA_DATA_DIR": str(tmp_path / "data"),
            "KILLATAMATA_DATABASE_URL": database_url,
            "KILLATAMATA_SECRET_KEY": SECRET,
            "KILLATAMATA_PUBLIC_URL": base,
            "KILLATAMATA_LOG_LEVEL": "warning",
            "KILLATAMATA_EVENT_STREAMS_PER_KEY": "1000",
            "KILLATAMATA_READS_PER_MINUTE": "0",
            "KILLATAMATA_WRITES_PER_MINUTE": "0",
            "KILLATAMATA_REQUESTS_PER_MINUTE_WITHOUT_KEY": "0",
        }
        command = [sys.executable, "-m", "api", "--fd", str(listening.fileno())]
        environment = {**os.environ, **settings}
        with subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listening.fileno()]) as process:
            _await(base, process)
            yield base
            process.terminate()


def _await(base: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the ingress ended"
        try:
            httpx.get(f"{base}/health", timeout=5)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the ingress does not answer")


@pytest.fixture
async def newcomer(ingress: Any, database: Database) -> AsyncIterator[Newcomer]:
    """Fresh accounts, $10 each unless more is asked for; the built-in prices are in force."""
    keys, opened = Keys(database, SECRET.encode()), []
    async with database.transaction() as connection:
        await price_books.publish(connection, PriceBook.built_in())

    async def make(credit: int = CREDIT) -> Caller:
        async with database.transaction() as connection:
            account = await accounts.create(connection, "someone")
            key, _ = await keys.create(connection, account.id, "laptop")
            await wallets.topup(connection, account.id, credit, f"test:{next(_numbers)}")
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(ingress), base_url=BASE, headers={"Authorization": f"Bearer {key}"}
        )
        opened.append(client)
        return Caller(account.id, key, client)

    yield make
    for client in opened:
        await client.aclose()


@pytest.fixture
async def whole_fleet(database: Database) -> None:
    """The pools of all nine tasks."""
    await pools.declare(database, frozenset(POOLS))


@dataclass
class Cdn:
    """What stands in for cdn.example.com: its URL, and the paths that were asked of it."""

    url: str
    asked: list[str]


@pytest.fixture
def cdn() -> Any:
    """A server on the loopback interface."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Cdn(f"http://127.0.0.1:{server.server_port}", asked)
        server.shutdown()
        thread.join()
