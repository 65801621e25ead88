"""Stopping and starting a stack: Ctrl-C in a job, SIGKILL, a second stack beside the first."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from standardwebhooks import Webhook

from core.database import Database
from core.settings import Settings
from killatamata.embedded_postgres import MAJOR, EmbeddedPostgres
from tests.chaos.running import DISPATCHER, Json, RunningStack, until
from tests.jobs.invariants import broken

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

PRICE = 10_000
Result = TypeVar("Result")


def in_database(stack: RunningStack, work: Callable[[Database], Awaitable[Result]]) -> Result:
    """What `work` finds in the stack's own database."""
    settings = Settings(data_dir=stack.folder / "data")

    async def run() -> Result:
        database = Database(EmbeddedPostgres(settings.root / f"pg{MAJOR}", settings.runtime_dir).dsn, size=1)
        await database.open()
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def places(stack: RunningStack) -> list[str]:
    """Where each unfinished job waits or runs, the oldest first."""
    rows = in_database(stack, lambda database: database.fetch("SELECT state FROM queue ORDER BY job_id"))
    return [row["state"] for row in rows]


def outcomes(job: Json) -> list[str]:
    return [attempt["outcome"] for attempt in job["details"]["attempts"]]


class Receiver:
    """A receiver of webhooks that answers 500 until it is `well`, and then believes what is signed with `secret`."""

    def __init__(self, port: int, secret: str) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self.secret = secret
        self.well = False
        self.refused = 0
        self.told: list[tuple[str, str]] = []

    def status(self, body: bytes, headers: dict[str, str]) -> int:
        """The answer to one notice."""
        if not self.well:
            self.refused += 1
            return 500
        notice = Webhook(self.secret).verify(body, headers)
        self.told.append((notice["type"], notice["data"]["jobId"]))
        return 200


@contextmanager
def receiving(secret: str) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(receiver.status(body, dict(self.headers)))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_port, secret)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield receiver
        finally:
            server.shutdown()


def test_jobs_outlive_the_end_of_their_stack(stack: RunningStack) -> None:
    """Beside another running stack: Ctrl-C hands a running job back, SIGKILL does not lose one."""
    with tempfile.TemporaryDirectory(prefix="kte") as folder:
        own = RunningStack(Path(folder))
        assert own.base_url != stack.base_url
        interrupted = own.accepted(width=1024, height=1024)
        own.until_running(interrupted)
        below = own.processes()
        assert own.end(signal.SIGINT) == 130
        until(lambda: not any(process.is_running() for process in below), "the end of every process", 20)

        own.up()
        job = own.finished(interrupted)
        assert (job["status"], outcomes(job)) == ("succeeded", ["handed_back", "succeeded"])

        everything_in_hand_outlives_a_kill(own)
        assert own.balance()["heldUsd"] == "0.000000"
        assert own.run("ledger", "check") == "no drift"
        assert own.end(signal.SIGTERM) == 130


def everything_in_hand_outlives_a_kill(own: RunningStack) -> None:
    """SIGKILL to `up`, and `up` again on its folder: every job, cancel and notice that was under way comes to its end."""
    before = own.balance()["balanceMicros"]
    in_database(own, lambda database: database.execute("UPDATE account SET concurrency = 3"))
    with receiving(own.call("GET", "/media/webhooks/secret").json()["secret"]) as receiver:
        running = own.accepted(width=1024, height=1024)
        stopped, queued = own.accepted(), own.accepted()
        parked, dropped = own.accepted(webhook=receiver.url), own.accepted(webhook=receiver.url)
        answer = own.call("DELETE", "/media/jobs", params={"jobId": dropped})
        assert answer.json()["status"] == "cancelled"
        until(lambda: receiver.refused, "a notice that nobody takes")
        own.until_running(running)
        assert places(own) == ["leased", "leased", "ready", "parked"]
        # Whoever should hear of this cancel does not.
        (dispatcher,) = own.processes(DISPATCHER)
        dispatcher.suspend()
        answer = own.call("DELETE", "/media/jobs", params={"jobId": stopped})
        assert (answer.status_code, answer.json()["status"]) == (200, "running")
        left = [process for process in own.processes() if process.name() != "postgres"]
        own.end(signal.SIGKILL)
        receiver.well = True

        own.up()
        assert own.seconds_to_ready < 60
        assert not [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        ended = {job_id: own.finished(job_id) for job_id in (running, stopped, queued, parked, dropped)}
        assert {job_id: job["status"] for job_id, job in ended.items()} == {
            running: "succeeded",
            stopped: "cancelled",
            queued: "succeeded",
            parked: "succeeded",
            dropped: "cancelled",
        }
        tried = {job_id: outcomes(job) for job_id, job in ended.items()}
        assert tried[running] == ["session_expired", "succeeded"]
        # While its stack dies the dispatcher may go on for a moment and hear of the cancel; then it takes the next in line.
        assert (tried[stopped], tried[queued]) in (
            (["session_expired"], ["succeeded"]),
            (["cancelled"], ["session_expired", "succeeded"]),
            (["cancelled"], ["succeeded"]),
        )
        assert (tried[parked], tried[dropped]) == (["succeeded"], [])
        until(lambda: len(receiver.told) > 1, "both notices", 90)
        assert sorted(receiver.told) == [("job.cancelled", dropped), ("job.succeeded", parked)]
    (delivery,) = own.call("GET", "/media/webhooks/deliveries", params={"jobId": dropped}).json()["deliveries"]
    *refused, last = [attempt["status"] for attempt in delivery["attempts"]]
    assert (delivery["state"], set(refused), last) == ("delivered", {500}, 200)
    charged = before - own.balance()["balanceMicros"]
    assert charged == ended[running]["billing"]["amountMicros"] + 2 * PRICE
    assert in_database(own, broken) == []


def test_one_folder_has_one_stack(stack: RunningStack) -> None:
    import subprocess

    done = subprocess.run(
        [stack.command, "up"], env=stack.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "already runs" in done.stderr
