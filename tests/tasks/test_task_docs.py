"""docs/tasks is what the definitions say now, and the check of it can fail."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from pricing.book import PriceBook
from tasks.examples import EXAMPLES
from tasks.registry import TASKS

SCRIPT = Path(__file__).parents[2] / "scripts" / "task_docs.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The script's own names, with a folder of its own to write to."""
    found: dict[str, Any] = runpy.run_path(str(SCRIPT))["main"].__globals__
    monkeypatch.setitem(found, "FOLDER", tmp_path / "docs")
    return found


def test_the_pages_are_up_to_date(script: dict[str, Any]) -> None:
    folder = SCRIPT.parents[1] / "docs" / "tasks"
    found = {path.name: path.read_text("utf-8") for path in folder.glob("*.md")}
    assert found == script["pages"](PriceBook.built_in()), "run python scripts/task_docs.py"


def test_every_field_and_price_is_on_its_page(script: dict[str, Any]) -> None:
    pages = script["pages"](PriceBook.built_in())
    assert set(pages) == {"README.md", *(f"{name}.md" for name in TASKS)}
    for name, task in TASKS.items():
        page = pages[f"{name}.md"]
        for field in task.Input.wire_names():
            assert f"\n| `{field}` | " in page
        assert page.count("```json") == len(EXAMPLES[name])
        assert name in pages["README.md"]
    assert "| `videoUrls` | list of 2…50: URL | required |" in pages["video.combine.md"]
    assert "**$0.165888** = music, 108 s at 192 kbit/s: 20736 × $0.000008" in pages["ace.step.create.md"]


def test_stale_pages_fail_the_check_and_are_written(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = script["FOLDER"]
    monkeypatch.setattr(sys, "argv", ["task_docs.py", "--check"])
    with pytest.raises(SystemExit, match=r"stale \(README.md, ace.step.create.md"):
        script["main"]()
    assert not folder.exists()
    monkeypatch.setattr(sys, "argv", ["task_docs.py"])
    script["main"]()
    (folder / "gone.md").write_text("a task that is no more")
    (folder / "README.md").write_text("edited by hand")
    monkeypatch.setattr(sys, "argv", ["task_docs.py", "--check"])
    with pytest.raises(SystemExit, match=r"stale \(README.md, gone.md\)"):
        script["main"]()
    monkeypatch.setattr(sys, "argv", ["task_docs.py"])
    script["main"]()
    assert "2 written" in capsys.readouterr().out
    assert not (folder / "gone.md").exists()
