"""Processes of a storm: started in sessions of their own, found by what they are, ended by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.storm.ground import ROOT, VARIABLE


def start(
    command: Sequence[str | Path], environment: dict[str, str], log: Path, *, keep: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its output appended to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            cwd=ROOT,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            pass_fds=keep,
            start_new_session=True,
        )


def below(pid: int) -> list[psutil.Process]:
    """The process and all that descend from it, as far as they live."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def titled(process: psutil.Process) -> str:
    """Its command line, "" when it is gone."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def alive(process: psutil.Process) -> bool:
    """Whether it still runs."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each that lives."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def ours(folder: Path) -> list[psutil.Process]:
    """Every process but this one whose environment names this storm's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(VARIABLE) == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def end_all(folder: Path) -> int:
    """Kill whatever of the storm is left; returns how many there were."""
    left = ours(folder)
    send(left, signal.SIGKILL)
    psutil.wait_procs(left, timeout=10)
    return len(left)


def until(check: Callable[[], Any], what: str, seconds: float = 60, pause: float = 0.1) -> Any:
    """The first true answer of `check`.

    Raises:
        TimeoutError: there was none in `seconds`.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = check()
        if answer:
            return answer
        time.sleep(pause)
    raise TimeoutError(f"not within {seconds:g} s: {what}")
