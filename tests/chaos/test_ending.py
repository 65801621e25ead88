"""Stopping and starting a stack: Ctrl-C in a job, SIGKILL, a second stack beside the first."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.chaos.running import RunningStack, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


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
        outcomes = [attempt["outcome"] for attempt in job["details"]["attempts"]]
        assert (job["status"], outcomes) == ("succeeded", ["handed_back", "succeeded"])

        killed = own.accepted(width=1024, height=1024)
        own.until_running(killed)
        left = [process for process in own.processes() if process.name() != "postgres"]
        own.end(signal.SIGKILL)
        own.up()
        assert own.seconds_to_ready < 60
        assert not [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        job = own.finished(killed)
        outcomes = [attempt["outcome"] for attempt in job["details"]["attempts"]]
        assert (job["status"], outcomes) == ("succeeded", ["session_expired", "succeeded"])
        assert own.balance()["heldUsd"] == "0.000000"
        assert own.run("ledger", "check") == "no drift"
        assert own.end(signal.SIGTERM) == 130


def test_one_folder_has_one_stack(stack: RunningStack) -> None:
    import subprocess

    done = subprocess.run(
        [stack.command, "up"], env=stack.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "already runs" in done.stderr
