"""The ground that a storm goes over: its folder, the environment of its processes, what they write down and are told.

Every process of a storm finds the folder in the variable `STORM`. The journal is one file of JSON lines that all of them
append to; `told` files, one per subject, say what shall go wrong now.
"""

from __future__ import annotations

import json
import os
import time
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


def journal(kind: str) -> list[Json]:
    """All lines of that kind, in order; the last line of a process that was killed may be cut off."""
    path = folder() / "journal"
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["kind"] == kind:
            found.append(entry)
    return found


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
