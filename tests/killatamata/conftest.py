"""The command line as `main` runs it, and a scripted API for it to talk to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from killatamata import cli, command, show
from tests.killatamata.scripted_api import Api, running

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def api() -> Iterator[Api]:
    """A server that answers as the test says."""
    with running() as made:
        yield made


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command: its exit code, what it printed and what it complained of."""
    for name in list(os.environ):
        if name.startswith("KILLATAMATA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KILLATAMATA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    # The log would keep this test's stderr, which is closed after it.
    monkeypatch.setattr(command, "configure", lambda *_, **__: None)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["killatamata", *words])
        monkeypatch.setattr(show.console, "_file", sys.stderr)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.out.strip(), " ".join(said.err.split())

    return run
