from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from killatamata import children

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
print(child.pid, flush=True)
time.sleep(600)
"""
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    begun: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def recorded(path: Path) -> set[int]:
    return {entry["pid"] for entry in json.loads(path.read_text())}


def test_children_and_their_children_are_recorded_and_ended(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "children.json"
    parent, spared = start(PARENT), start(SLEEP)
    grandchild = int(line(parent))
    children.record(path, frozenset({spared.pid}))
    assert {parent.pid, grandchild} <= recorded(path)
    assert spared.pid not in recorded(path)
    # Only these two: the test's own process has other children, such as its database server.
    entries = [entry for entry in json.loads(path.read_text()) if entry["pid"] in {parent.pid, grandchild}]
    path.write_text(json.dumps(entries))
    assert children.end_recorded(path) == 2
    for pid in (parent.pid, grandchild):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert spared.poll() is None
    assert not path.exists()


def test_one_that_ignores_the_polite_signal_is_killed(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_END_SECONDS", 0.5)
    stubborn = start(STUBBORN)
    assert line(stubborn) == "ready"
    path = tmp_path / "children.json"
    path.write_text(json.dumps([{"pid": stubborn.pid, "created": psutil.Process(stubborn.pid).create_time()}]))
    began = time.monotonic()
    assert children.end_recorded(path) == 1
    assert time.monotonic() - began < 4
    assert not psutil.pid_exists(stubborn.pid)


def test_a_process_that_only_has_the_same_number_is_left_alone(tmp_path: Path, start: Start) -> None:
    innocent = start(SLEEP)
    path = tmp_path / "children.json"
    path.write_text(json.dumps([{"pid": innocent.pid, "created": psutil.Process(innocent.pid).create_time() - 60}]))
    assert children.end_recorded(path) == 0
    assert innocent.poll() is None


def test_processes_that_are_gone_are_no_trouble(tmp_path: Path, start: Start) -> None:
    process = start(SLEEP)
    path = tmp_path / "children.json"
    path.write_text(json.dumps([{"pid": process.pid, "created": psutil.Process(process.pid).create_time()}]))
    process.kill()
    process.wait()
    assert children.end_recorded(path) == 0


@pytest.mark.parametrize("content", [None, "", "[{"])
def test_without_a_readable_record_nothing_is_ended(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "children.json"
    if content is not None:
        path.write_text(content)
    assert children.end_recorded(path) == 0


def test_a_record_is_replaced_whole(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "children.json"
    path.write_text("x" * 100_000)
    process = start(SLEEP)
    with path.open() as reader:
        children.record(path, frozenset())
        assert reader.read() == "x" * 100_000
    assert process.pid in recorded(path)
