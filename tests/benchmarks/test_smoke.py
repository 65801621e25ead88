"""Every benchmark once, scaled down until its numbers mean nothing: the code runs, and what it checks on the way holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import ROOT, clean_environment

NAMES = ("submit_http", "status_http", "accept_to_settle", "claim_at_depth", "hold_race", "event_streams", "large_body")
PURE = ("image_decode", "video_encode", "video_combine", "validation")
IN_CLUSTER = ("model_step", "image_overhead")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the benchmarks, so that a run writes its results there."""
    folder = tmp_path_factory.mktemp("bench")
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("results", "__pycache__"))
    return folder


@pytest.mark.parametrize("name", [*NAMES, *PURE, *(pytest.param(name, marks=pytest.mark.stack) for name in IN_CLUSTER)])
def test_it_runs(name: str, elsewhere: Path) -> None:
    environment = clean_environment() | {"KILLATAMATA_BENCH_SCALE": "0.005"}
    environment["PYTHONPATH"] = os.pathsep.join([str(elsewhere), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", name],
        cwd=elsewhere,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert f"{name}." in run.stdout or "skipped:" in run.stdout
