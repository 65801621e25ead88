"""Work in a process of its own, so that no side is in another's way: an order goes in as JSON, an answer comes out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.settings import PREFIX

ROOT = Path(__file__).resolve().parent.parent

_TAIL = 3000


class ProcessFailed(Exception):
    """The process ended with an error; the message ends with what it said."""


def clean_environment() -> dict[str, str]:
    """This process's environment without the settings of a service that somebody runs beside it."""
    kept = f"{PREFIX}BENCH_"
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(kept) or not name.startswith((PREFIX, "DATABASE_URL"))
    }


async def from_process(module: str, order: Mapping[str, Any], settings: Mapping[str, str] | None = None) -> Any:
    """What `python -m module` prints as its last line, as JSON, for `order` on its standard input.

    Raises:
        ProcessFailed: its exit status is not 0.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        cwd=ROOT,
        env=clean_environment() | dict(settings or {}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate(json.dumps(order).encode())
    except BaseException:
        process.terminate()
        await process.wait()
        raise
    if process.returncode:
        raise ProcessFailed(f"{module} failed:\n{errors.decode(errors='replace')[-_TAIL:]}")
    return json.loads(output.splitlines()[-1])
