"""A whole stack on one machine: PostgreSQL, Ray with its fleet, ingress and background; started, watched, stopped."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from accounts.keys import Keys
from api.server import listen
from billing import price_books
from cluster.ray_environment import environment
from core.database import UNAVAILABLE, Connection, Database
from core.errors import OperatorError
from core.log import logger
from core.money import MICROS_PER_USD
from core.settings import PREFIX, Settings
from jobs import leases
from killatamata import children
from killatamata.embedded_postgres import MAJOR, EmbeddedPostgres
from killatamata.local_account import local_key
from killatamata.migrate import migrate
from killatamata.private_file import write_private
from pricing.book import SHIPPED, PriceBook

if TYPE_CHECKING:
    from cluster.fleet import Fleet

log = logger(__name__)

Say = Callable[[str, str, float], None]
"""Told of every part that is up: its name, a detail, the seconds it took."""

LOCAL_CREDIT = 100 * MICROS_PER_USD
"""Play money of the local account; only with the embedded database."""

_WATCH_SECONDS = 0.5
_STOP_SECONDS = 8.0
_HEALTH_SECONDS = 30.0


class AlreadyRunning(OperatorError):
    """A stack runs on this data folder."""


class AddressTaken(OperatorError):
    """The ingress cannot listen where it was told to."""


class IngressFailed(OperatorError):
    """The ingress did not come up."""


@dataclass(frozen=True)
class Ready:
    """Where a running stack is, for programs: base URL, the local account's key, pid of `up`."""

    base_url: str
    api_key: str
    pid: int

    def as_json(self) -> dict[str, str | int]:
        """The content of a ready file."""
        return {"baseUrl": self.base_url, "apiKey": self.api_key, "pid": self.pid}


def running(settings: Settings) -> Ready | None:
    """The stack that runs on this data folder, if one does."""
    try:
        with _locked(settings.root / "up.lock"):
            return None
    except AlreadyRunning:
        try:
            found = json.loads((settings.root / "ready.json").read_text())
        except FileNotFoundError:
            raise AlreadyRunning(f"The stack on {settings.root} is still starting, or stopping; try again.") from None
        return Ready(found["baseUrl"], found["apiKey"], found["pid"])


class _locked:  # noqa: N801 - used like a function
    """A lock on the data folder that ends with its process, however it ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise AlreadyRunning(
                f"A stack already runs on {path.parent}. Stop it, or set {PREFIX}DATA_DIR to another folder."
            ) from None

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Stack:
    """The parts of a running stack. Made by `started`."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self.settings = settings
        self._say = say
        self._postgres: EmbeddedPostgres | None = None
        self._ingress: subprocess.Popen[bytes] | None = None
        self._background: subprocess.Popen[bytes] | None = None
        self._database: Database | None = None
        self._socket = _listen(settings)
        self._book = PriceBook.parse(settings.price_book.read_text()) if settings.price_book else None

    async def start(self) -> Ready:
        """Start every part; jobs are accepted when this returns."""
        settings, root = self.settings, self.settings.root
        (root / "ready.json").unlink(missing_ok=True)
        fleet = self._load_fleet()
        left = await asyncio.to_thread(children.end_recorded, root / "children.json")
        if left:
            self._say("cleaned up", f"{left} processes of a stack that was killed", 0.0)
        async with self._timed("PostgreSQL") as detail:
            url = settings.database_url
            if url is None:
                self._postgres = EmbeddedPostgres(root / f"pg{MAJOR}", settings.runtime_dir)
                url = await asyncio.to_thread(self._postgres.start)
            detail.append("embedded" if self._postgres else "given by DATABASE_URL")
        self._export(url)
        async with self._timed("migrations"):
            await migrate(url)
        self._database = Database(url, direct_url=self.settings.database_url_direct, size=2)
        await self._database.open()
        async with self._database.transaction() as connection:
            await self._publish_prices(connection)
        keys = Keys(self._database, settings.key)
        key = await local_key(self._database, keys, root / "local-key", LOCAL_CREDIT if self._postgres else 0)
        shutil.rmtree(settings.runtime_dir / "metrics", ignore_errors=True)
        (settings.runtime_dir / "metrics").mkdir(mode=0o700)
        self._start_ingress()
        self._start_background()
        async with self._timed("Ray"):
            self._start_ray()
        self._record_children()
        async with self._timed("fleet") as detail:
            detail.append(settings.fleet)
            await self._apply(fleet)
        url = self.settings.base_url
        async with self._timed("ingress") as detail:
            detail.append(url)
            await self._until_healthy(url)
        self._record_children()
        ready = Ready(url, key, os.getpid())
        write_private(root / "ready.json", json.dumps(ready.as_json()))
        return ready

    async def _publish_prices(self, connection: Connection) -> None:
        """The book that the settings name; without one, the built-in book in the place of none or of an older built-in."""
        if self._book is not None:
            await price_books.publish(connection, self._book)
        elif await price_books.current_version(connection) in SHIPPED | {None}:
            await price_books.publish(connection, PriceBook.built_in())

    async def watch(self) -> None:
        """Start again what dies, for as long as the caller lets this run."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._ingress is not None and self._ingress.poll() is not None:
                log.error("the ingress ended; starting it again", code=self._ingress.returncode)
                self._start_ingress()
            if self._background is not None and self._background.poll() is not None:
                log.error("the background process ended; starting it again", code=self._background.returncode)
                self._start_background()
            if self._postgres is not None and self._postgres.pid is None:
                log.error("PostgreSQL ended; starting it again")
                await asyncio.to_thread(self._postgres.start)

    async def stop(self) -> None:
        """Stop every part: running jobs are handed back first, the database goes last."""
        root = self.settings.root
        (root / "ready.json").unlink(missing_ok=True)
        processes = [each for each in (self._background, self._ingress) if each is not None]
        for process in processes:
            process.terminate()
        # In this order, and each of them whatever became of the one before.
        async with AsyncExitStack() as last:
            last.callback(shutil.rmtree, self.settings.runtime_dir, ignore_errors=True)
            last.callback((root / "children.json").unlink, missing_ok=True)
            last.callback(self._socket.close)
            if self._postgres is not None:
                last.push_async_callback(asyncio.to_thread, self._postgres.stop)
            if self._database is not None:
                last.push_async_callback(self._database.close)
            last.push_async_callback(asyncio.to_thread, self._stop_ray)
            for process in processes:
                last.push_async_callback(asyncio.to_thread, _end, process)
            if self._database is not None:
                await self._hand_back(self._database)

    async def _hand_back(self, database: Database) -> None:
        try:
            await leases.drain(database, 0)
        except UNAVAILABLE as error:
            log.warning("running jobs could not be handed back; their sessions will expire", error=repr(error))

    def _export(self, url: str) -> None:
        """Let every child know what was decided here."""
        settings = self.settings
        os.environ[f"{PREFIX}DATA_DIR"] = str(settings.root)
        os.environ[f"{PREFIX}DATABASE_URL"] = url
        os.environ[f"{PREFIX}PORT"] = str(self._socket.getsockname()[1])
        self.settings = Settings()

    def _start_ingress(self) -> None:
        self._ingress = subprocess.Popen(
            [sys.executable, "-m", "api", "--fd", str(self._socket.fileno())],
            env=self._counting(),
            pass_fds=[self._socket.fileno()],
            start_new_session=True,
        )
        self._record_children()

    def _start_background(self) -> None:
        self._background = subprocess.Popen(
            [sys.executable, "-m", "killatamata.background"], env=self._counting(), start_new_session=True
        )
        self._record_children()

    def _counting(self) -> dict[str, str]:
        """The environment of processes that `/metrics` answers for."""
        return os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(self.settings.runtime_dir / "metrics")}

    def _start_ray(self) -> None:
        from cluster import bring_up

        shutil.rmtree(self.settings.runtime_dir / "ray", ignore_errors=True)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        bring_up.start(self.settings)
        # Ray puts handlers of its own in the place of those that stop this stack in good order.
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def _stop_ray(self) -> None:
        if "ray" in sys.modules:
            from cluster import bring_up

            bring_up.stop()
            self._keep_logs()

    def _keep_logs(self) -> None:
        """Keep the logs of Ray, its replicas and the dispatcher, which lie in the runtime folder."""
        runtime, kept = self.settings.runtime_dir, self.settings.root / "ray-logs"
        for logs in runtime.glob("ray/session_2*/logs"):
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(logs, kept, symlinks=True)

    def _load_fleet(self) -> Fleet:
        """Read before anything is started; Ray is imported here, so its environment comes first."""
        os.environ.update(environment(self.settings))
        from cluster.fleet import load

        return load(self.settings.fleet)

    async def _apply(self, fleet: Fleet) -> None:
        from cluster.fleet import apply

        assert self._database is not None
        await apply(fleet, self._database, timeout_s=self.settings.fleet_seconds)

    async def _until_healthy(self, url: str) -> None:
        end = time.monotonic() + _HEALTH_SECONDS
        async with httpx.AsyncClient(trust_env=False) as client:
            while time.monotonic() < end:
                try:
                    answer = await client.get(f"{url}/api/v1/health", params={"deep": "1"})
                    if answer.status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
        raise IngressFailed(f"the ingress does not answer at {url}")

    def _record_children(self) -> None:
        spared = (
            frozenset() if self._postgres is None or self._postgres.pid is None else frozenset({self._postgres.pid})
        )
        children.record(self.settings.root / "children.json", spared)

    @asynccontextmanager
    async def _timed(self, part: str) -> AsyncIterator[list[str]]:
        began = time.monotonic()
        detail: list[str] = []
        yield detail
        self._say(part, " ".join(detail), time.monotonic() - began)


def _listen(settings: Settings) -> socket.socket:
    try:
        return listen(settings.host, settings.port)
    except OSError as error:
        raise AddressTaken(
            f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}): set {PREFIX}PORT to another port,"
            f" or to 0 for a free one, and {PREFIX}HOST to an address of this machine."
        ) from None


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@asynccontextmanager
async def embedded(settings: Settings) -> AsyncIterator[str]:
    """The URL of the stack's database: the given one, the running stack's, or the embedded server run for this block."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    postgres = EmbeddedPostgres(settings.root / f"pg{MAJOR}", settings.runtime_dir)
    if running(settings) is not None:
        yield postgres.dsn
        return
    with _locked(settings.root / "up.lock"):
        try:
            yield await asyncio.to_thread(postgres.start)
        finally:
            await asyncio.to_thread(postgres.stop)
            shutil.rmtree(settings.runtime_dir, ignore_errors=True)


@asynccontextmanager
async def started(settings: Settings, say: Say) -> AsyncIterator[tuple[Stack, Ready]]:
    """A stack that runs inside the block and is stopped after it, whatever happened.

    Raises:
        AlreadyRunning: one runs on this data folder.
    """
    with _locked(settings.root / "up.lock"):
        stack = Stack(settings, say)
        try:
            ready = await stack.start()
            yield stack, ready
        finally:
            await stack.stop()
