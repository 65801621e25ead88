"""A pytest plugin (`-p tests.chaos.report`) that writes what was survived, and what was not, to out/chaos/report.json."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

PATH = Path("out/chaos/report.json")

_scenarios: dict[str, dict[str, Any]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = report.nodeid.partition("::")[2].removeprefix("test_")
    found = _scenarios.setdefault(name, {"name": name, "outcome": "passed", "seconds": 0.0})
    found["seconds"] = round(found["seconds"] + report.duration, 3)
    if report.outcome != "passed":
        found["outcome"] = report.outcome
        found["detail"] = report.longreprtext[-2000:]


def pytest_sessionfinish() -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "commit": commit,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "scenarios": list(_scenarios.values()),
    }
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(json.dumps(report, indent=2) + "\n")
