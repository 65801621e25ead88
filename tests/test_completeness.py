"""What `.ci/run` installs may be missing elsewhere, and never there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.redis_server import redis_server
from tests.storage.conftest import needs

COMPLETE = "KILLATAMATA_TESTS_COMPLETE"


@pytest.mark.parametrize(("complete", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_what_a_test_needs_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, complete: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv(COMPLETE, complete)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(outcome, match="redis-server is not installed"), redis_server(tmp_path):
        pass
    with pytest.raises(outcome, match="a_package_of_nobody is not installed"):
        needs("pytest", "a_package_of_nobody")
    needs("pytest")


def test_the_whole_check_is_complete() -> None:
    run = (Path(__file__).parents[1] / ".ci" / "run").read_text("utf-8")
    assert run.index(f"export {COMPLETE}=1\n") < run.index("make test\n")
