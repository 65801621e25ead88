"""Where and of what a result was measured."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import psutil

from benchmarks.processes import ROOT
from killatamata.embedded_postgres import MAJOR

_BUSY_SECONDS = 2.0


def describe() -> str:
    """Processor, cores, memory and versions."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}, PostgreSQL {MAJOR} (embedded)"
    )


def busy() -> float:
    """The share of all cores (0…1) that is in use now, measured for two seconds."""
    return psutil.cpu_percent(_BUSY_SECONDS) / 100


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown (git is not installed)"

    def said(*words: str) -> str:
        command = [git, "-c", f"safe.directory={ROOT}", *words]
        return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True).stdout.strip()

    head = said("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown (not a git clone)"
    return (
        f"{head} with uncommitted changes"
        if said("status", "--porcelain", "--", ".", ":!benchmarks/RESULTS.md")
        else head
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
