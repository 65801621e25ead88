from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.running import RunningStack


@pytest.fixture(scope="package")
def stack() -> Iterator[RunningStack]:
    """One stack for all tests of this package that leave it running."""
    folder = Path(tempfile.mkdtemp(prefix="kts"))
    running = RunningStack(folder)
    yield running
    assert running.end() == 130
    shutil.rmtree(folder)
