"""The ground that a storm goes over: its folder, the environment of its processes, what they write down and are told.

Every process of a storm finds the folder in the variable `STORM`. The journal is one file of JSON lines that all of them
append to; `told` files, one per subject, say what shall go wrong now.
"""

from __future__ import annotations

import json
import os
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "STORM"
ROOT = Path(__file__).resolve().parents[3]

Json = dict[str, Any]


def folder() -> Path:
    """The storm's folder, as this process was told."""
    return Path(os.environ[VARIABLE])


def note(kind: str, **fields: Any) -> None:
    """Add a line to the journal; one write, so that lines of several processes never mix."""
    line = json.dumps({"kind": kind, "at": time.time(), "pid": os.getpid(), **fields}) + "\n"
    descriptor = os.open(folder() / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


class _Journal:
    """The journal as far as this process has read it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0
        self._entries: dict[str, list[Json]] = {}
        self._reading = threading.Lock()

    def entries(self, kind: str) -> list[Json]:
        with self._reading:
            if self._path.exists():
                self._read_on()
            return list(self._entries.get(kind, ()))

    def _read_on(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._place)
            new = file.read()
        whole = new.rfind(b"\n") + 1
        self._place += whole
        for line in new[:whole].splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            self._entries.setdefault(entry["kind"], []).append(entry)


@cache
def _journal(path: Path) -> _Journal:
    return _Journal(path)


def journal(kind: str) -> list[Json]:
    """All lines of that kind, in order; what a process that was killed had half written is left out.

    A call reads only what is new since the last one: late in a storm to read it all would take longer than a fault.
    """
    return _journal(folder() / "journal").entries(kind)


def tell(subject: str, **what: Any) -> None:
    """Say what holds for `subject` from now on; nothing ends it."""
    path = folder() / f"told-{subject}"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(what))
    draft.replace(path)


def told(subject: str) -> Json:
    """What was last told of `subject`; {} when nothing was."""
    try:
        found: Json = json.loads((folder() / f"told-{subject}").read_text())
    except FileNotFoundError:
        return {}
    return found


def once(name: str, times: int) -> bool:
    """True for the first `times` calls with that name, in whatever process."""
    for number in range(times):
        try:
            os.close(os.open(folder() / "marks" / f"{name}-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            continue
        return True
    return False
