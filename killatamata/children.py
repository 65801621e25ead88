"""Processes that a stack started, written down, so that the next one can end what a killed one left behind."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from killatamata.private_file import write_private

_END_SECONDS = 5.0


def record(path: Path, spared: frozenset[int]) -> None:
    """Write down every process below this one, but for those in `spared`, with its start time (pids are used again)."""
    found = [
        {"pid": child.pid, "created": child.create_time()}
        for child in psutil.Process().children(recursive=True)
        if child.pid not in spared and child.is_running()
    ]
    write_private(path, json.dumps(found))


def end_recorded(path: Path) -> int:
    """End the recorded processes that still run; returns how many there were."""
    try:
        recorded = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0
    left = [process for entry in recorded if (process := _running(entry["pid"], entry["created"])) is not None]
    for process in left:
        _signal(process, "terminate")
    _, stubborn = psutil.wait_procs(left, timeout=_END_SECONDS)
    for process in stubborn:
        _signal(process, "kill")
    psutil.wait_procs(stubborn, timeout=_END_SECONDS)
    path.unlink(missing_ok=True)
    return len(left)


def _running(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - created) < 1 else None
    except psutil.NoSuchProcess:
        return None


def _signal(process: psutil.Process, method: str) -> None:
    try:
        getattr(process, method)()
    except psutil.NoSuchProcess:
        return
