"""A stack with the embedded fleet, and what stands in for cdn.example.com: fixtures of one module at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cdn import serving
from tests.chaos.running import RunningStack


@pytest.fixture(scope="module")
def cdn() -> Iterator[str]:
    """The URL of the server."""
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    """The stack, which must end as Ctrl-C ends it."""
    folder = Path(tempfile.mkdtemp(prefix="kte"))
    running = RunningStack(folder, "embedded")
    yield running
    assert running.end() == 130
    shutil.rmtree(folder)
