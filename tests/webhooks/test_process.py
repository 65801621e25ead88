"""The background process as a process: killed, ended in order, and as it is shipped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.responses import Response

from tests.leasing import until_true
from tests.webhooks.receiver import never, receiving
from tests.webhooks.scene import Scene

FAST = "tests.webhooks.process"


@contextmanager
def process(scene: Scene, folder: Path, module: str = FAST) -> Iterator[subprocess.Popen[bytes]]:
    """The module's process, killed at the end if it still lives."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KILLATAMATA_")}
    environment |= {
        "KILLATAMATA_DATA_DIR": str(folder),
        "KILLATAMATA_DATABASE_URL": scene.database.url,
        "KILLATAMATA_SECRET_KEY": "k" * 32,
        "KILLATAMATA_PUBLIC_URL": "https://api.example.test",
        "KILLATAMATA_EGRESS_ALLOW": "127.0.0.0/8",
    }
    with (folder / "log").open("ab") as log:
        running = subprocess.Popen([sys.executable, "-m", module], env=environment, stderr=log)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


async def delivered(scene: Scene, job: Any) -> Any:
    async def ended() -> Any:
        found = await scene.delivery(job)
        return found if found.state != "pending" else None

    found = await until_true(ended, "the delivery's end", 90)
    assert found.state == "delivered"
    return found


async def test_a_worker_killed_in_a_try_loses_nothing(scene: Scene, tmp_path: Path) -> None:
    account, secret = await scene.account()
    async with receiving(never, 200, secrets=[secret]) as receiver:
        with process(scene, tmp_path) as first:
            job = await scene.succeeded(account, receiver.url)
            await until_true(lambda: receiver.got, "a try under way", 60)
            first.kill()
            first.wait()
        with process(scene, tmp_path):
            found = await delivered(scene, job)
        assert [each.status for each in found.attempts] == [None, 200]
        assert len({got.id for got in receiver.got}) == 1
        assert [got.notice["type"] for got in receiver.got] == ["job.succeeded"] * 2


async def test_sigterm_lets_a_try_under_way_end(scene: Scene, tmp_path: Path) -> None:
    account, _ = await scene.account()
    finish = asyncio.Event()

    async def patient(_: Any) -> Response:
        await finish.wait()
        return Response()

    async with receiving(patient) as receiver:
        with process(scene, tmp_path) as running:
            job = await scene.succeeded(account, receiver.url)
            await until_true(lambda: receiver.got, "a try under way", 60)
            running.send_signal(signal.SIGTERM)
            finish.set()
            assert await asyncio.to_thread(running.wait, 60) == 0
    found = await scene.delivery(job)
    assert (found.state, [each.status for each in found.attempts]) == ("delivered", [200])
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_sigterm_breaks_off_a_try_that_does_not_end_and_another_process_goes_on(
    scene: Scene, tmp_path: Path, how: signal.Signals
) -> None:
    account, _ = await scene.account()
    async with receiving(never, 200) as receiver:
        with process(scene, tmp_path) as running:
            job = await scene.succeeded(account, receiver.url)
            await until_true(lambda: receiver.got, "a try under way", 60)
            running.send_signal(how)
            assert await asyncio.to_thread(running.wait, 60) == 0
        with process(scene, tmp_path):
            found = await delivered(scene, job)
    assert [each.status for each in found.attempts] == [200], "a try that was broken off does not count"


async def test_as_it_is_shipped_it_delivers_and_is_small(scene: Scene, tmp_path: Path) -> None:
    account, _ = await scene.account()
    async with receiving() as receiver:
        with process(scene, tmp_path, "killatamata.background") as running:
            job = await scene.succeeded(account, receiver.url)
            await delivered(scene, job)
            await until_true(
                lambda: scene.database.fetch_value("SELECT count(*) >= 3 FROM ledger_check"),
                "the checks' first results",
            )
            assert psutil.Process(running.pid).memory_info().rss < 150_000_000
            running.terminate()
            assert await asyncio.to_thread(running.wait, 60) == 0
    assert (tmp_path / "log").read_text() == ""
