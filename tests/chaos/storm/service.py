"""The service of a storm: database, two ingresses behind one socket, background, cluster; started again when dead."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil

from accounts import accounts
from accounts.keys import Keys
from api.server import listen
from billing import price_books, wallets
from cluster.ray_environment import environment
from core.database import Database
from core.settings import PREFIX, Settings
from killatamata.embedded_postgres import MAJOR, EmbeddedPostgres
from killatamata.migrate import migrate
from pricing.book import PriceBook
from tests.chaos.storm import fleet, proxy
from tests.chaos.storm.cluster import Cluster
from tests.chaos.storm.ground import ROOT, VARIABLE, note
from tests.chaos.storm.processes import below, send, start, titled
from webhooks.store import Webhooks

CREDIT = 10**12
INGRESSES = 2
LOOK_SECONDS = 0.5
QUESTION_SECONDS = 280


@dataclass(frozen=True)
class Customer:
    """An account and its key."""

    account_id: str
    key: str


class Service:
    """Everything that serves. One thread at a time may bring parts up; `look` is to be called again and again."""

    def __init__(self, folder: Path, *, real: bool) -> None:
        self.folder = folder
        self._real = real
        self._revision = 0
        self.lock, self.nodes = threading.Lock(), threading.Lock()
        (folder / "marks").mkdir()
        (folder / "sockets").mkdir(mode=0o700)
        (folder / "proxy").mkdir(mode=0o700)
        self.socket = listen("127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.postgres = EmbeddedPostgres(folder / f"pg{MAJOR}", folder / "sockets")
        self.ingresses: list[subprocess.Popen[bytes] | None] = [None] * INGRESSES
        self.background: subprocess.Popen[bytes] | None = None
        self.proxy: subprocess.Popen[bytes] | None = None
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith((PREFIX, "RAY_", "DATABASE_"))
        }
        self.environment = inherited | {
            VARIABLE: str(folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
            f"{PREFIX}DATA_DIR": str(folder / "data"),
            f"{PREFIX}DATABASE_URL": self.postgres.dsn,
            f"{PREFIX}PORT": str(self.socket.getsockname()[1]),
            f"{PREFIX}LOG_LEVEL": "info",
            f"{PREFIX}EGRESS_ALLOW": "127.0.0.0/8",
            f"{PREFIX}RUNNING_CANCELS_A_DAY": "1000000",
            **{f"{PREFIX}{kind}_PER_MINUTE": "0" for kind in ("READS", "WRITES")},
        }
        os.environ.update(
            {key: self.environment[key] for key in (VARIABLE, f"{PREFIX}DATA_DIR", f"{PREFIX}DATABASE_URL")}
        )
        self.environment |= environment(Settings())
        self.cluster = Cluster(folder, self.environment)
        self.database = Database(self.postgres.dsn, size=4)

    async def start(self, *, fence: bool = True) -> None:
        """Start everything; `fence`: with the checks that keep late workers out."""
        await asyncio.to_thread(self.postgres.start)
        await migrate(self.postgres.dsn)
        await self.database.open()
        if not fence:
            await self._drop_fence()
        async with self.database.transaction() as connection:
            await price_books.publish(connection, PriceBook.built_in())
        await asyncio.to_thread(self.cluster.start)
        self.look()
        await asyncio.to_thread(self.ask, "apply", str(fleet.write(self.folder, 0, real=self._real)))

    async def customer(self, name: str, concurrency: int = 20) -> Customer:
        """A new account with credit, and a key of it."""
        async with self.database.transaction() as connection:
            made = await accounts.create(connection, name)
            await wallets.topup(connection, made.id, CREDIT, f"storm:{made.id}")
            await connection.execute("UPDATE account SET concurrency = $2 WHERE id = $1", made.id, concurrency)
            key, _ = await Keys(self.database, Settings().key).create(connection, made.id, "storm")
        return Customer(str(made.id), key)

    async def secret(self, customer: Customer) -> str:
        """What signs the customer's notices."""
        found = await Webhooks(self.database, Settings().key).secret(UUID(customer.account_id))
        return found.value

    def look(self) -> None:
        """Start again what has died of the processes on this side of Ray."""
        with self.lock:
            self._look()

    def mend(self) -> None:
        """Start again the nodes that have died; others need not wait for that."""
        with self.nodes:
            for name in self.cluster.revive():
                note("revived", node=name)

    def _look(self) -> None:
        for place, process in enumerate(self.ingresses):
            if process is None or process.poll() is not None:
                descriptor = self.socket.fileno()
                self.ingresses[place] = start(
                    [sys.executable, "-m", "tests.chaos.storm.ingress", "--fd", str(descriptor)],
                    self.environment,
                    self.folder / "ingress.log",
                    keep=(descriptor,),
                )
        if self.background is None or self.background.poll() is not None:
            self.background = start(
                [sys.executable, "-m", "tests.chaos.storm.background"], self.environment, self.folder / "background.log"
            )
        if self.proxy is None or self.proxy.poll() is not None:
            target = self.folder / "sockets" / "pg" / proxy.NAME
            command = [sys.executable, "-m", "tests.chaos.storm.proxy"]
            self.proxy = start([*command, target], self.environment, self.folder / "proxy.log")
        if self.postgres.pid is None:
            self.postgres.start()

    def ask(self, *words: str) -> str:
        """Put a question to the cluster; returns what was answered.

        Raises:
            RuntimeError: it failed, or took too long.
        """
        command = [sys.executable, "-m", "tests.chaos.storm.deploy", self.cluster.address, *words]
        with (self.folder / "deploy.log").open("ab") as log:
            asked = subprocess.Popen(
                command, env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
            try:
                answer, _ = asked.communicate(timeout=QUESTION_SECONDS)
            except subprocess.TimeoutExpired:
                asked.kill()
                asked.communicate()
                raise RuntimeError(f"the cluster did not answer to {words[0]} in {QUESTION_SECONDS} s") from None
        if asked.returncode:
            raise RuntimeError(f"{words[0]} failed; see deploy.log")
        return answer.decode().strip()

    def redeploy(self) -> None:
        """Replace every replica of the largest pool."""
        self._revision += 1
        self.ask("apply", str(fleet.write(self.folder, self._revision, real=self._real)))

    def replicas(self, pool: str = "") -> list[psutil.Process]:
        """Replicas of the pool, or of all pools."""
        named = f"ray::ServeReplica:{pool}:Replica" if pool else "ray::ServeReplica:"
        return [each for each in self.cluster.titled(named) if ":Replica" in titled(each)]

    def dispatchers(self) -> list[psutil.Process]:
        """The dispatchers."""
        return self.cluster.titled("ray::ServeReplica:dispatcher:Dispatcher")

    async def driving(self) -> set[int]:
        """Pids of the dispatchers that have jobs."""
        rows = await self.database.fetch(
            "SELECT DISTINCT session.name FROM job JOIN session ON session.id = session_id WHERE job.state = 'running'"
        )
        return {int(row["name"].rpartition(":")[2]) for row in rows}

    def controllers(self) -> list[psutil.Process]:
        """Serve's controller."""
        return self.cluster.titled("ray::ServeController")

    async def stop(self) -> None:
        """End all of it, the database last, each part whatever became of the one before."""
        async with AsyncExitStack() as last:
            last.callback(self.socket.close)
            last.push_async_callback(asyncio.to_thread, self.postgres.stop)
            last.push_async_callback(asyncio.to_thread, self.cluster.stop)
            last.push_async_callback(asyncio.to_thread, self._end)
            last.push_async_callback(self.database.close)

    def _end(self) -> None:
        for process in (*self.ingresses, self.background, self.proxy):
            if process is not None:
                send(below(process.pid), signal.SIGKILL)
                process.wait(10)

    async def _drop_fence(self) -> None:
        """The planted bug: a lease's end is believed whatever fence it carries."""
        for name in ("settle", "job_owned", "permitted", "stage_begin", "job_progress", "job_preview"):
            text = await self.database.fetch_value(
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1 AND pronamespace = 'public'::regnamespace",
                name,
            )
            bare = text.replace(" AND fence = p_fence", "").replace(" AND job.fence = p_fence", "")
            if bare == text:
                raise RuntimeError(f"SQL {name} checks no fence that this storm knows how to delete")
            await self.database.execute(bare)
        note("fence", deleted=True, at_time=time.time())
