from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from billing.price_books import PriceBooks
from core.database import Database
from core.errors import OperatorError
from killatamata import examples, prices
from pricing.book import PriceBook
from tasks.registry import TASKS

BUILT_IN = resources.files("pricing").joinpath("book.toml").read_text("utf-8")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A price book of an operator's own."""
    path = tmp_path / "book.toml"
    path.write_text(BUILT_IN.replace("2026-11-2", "mine-1").replace('usd_per_clip = "0.005"', 'usd_per_clip = "0.05"'))
    return path


async def test_a_book_comes_into_force_and_again_says_so(database: Database, file: Path) -> None:
    assert await prices.publish(database, file) == "price book mine-1 is in force now"
    assert await prices.publish(database, file) == "price book mine-1 was in force already"
    assert await PriceBooks(database).current() == prices.load(file)


async def test_a_version_never_changes(database: Database, file: Path) -> None:
    await prices.publish(database, file)
    file.write_text(file.read_text().replace('"0.05"', '"0.06"'))
    with pytest.raises(OperatorError, match="mine-1 exists with other prices"):
        await prices.publish(database, file)
    assert (await PriceBooks(database).current()).as_json()["video.combine"] == {"usd_per_clip": "0.05"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"", "version: Field required"),
        (b"version = ", "no valid TOML"),
        (BUILT_IN.replace('"0.0012"', "0.0012").encode(), "video.generate › usd_per_megapixel_frame"),
    ],
)
async def test_a_file_that_is_no_book_changes_nothing(
    database: Database, tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "bad.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OperatorError, match=says):
        await prices.publish(database, path)
    assert await database.fetch_value("SELECT count(*) FROM price_book") == 0


def test_all_examples_are_priced_by_any_book(file: Path) -> None:
    rows = examples.all_examples()
    assert {row["task"] for row in rows} == set(TASKS)
    assert len(rows) == 16
    assert next(row for row in rows if row["task"] == "ace.step.create") == {
        "task": "ace.step.create",
        "example": "1",
        "price": "$0.165888",
        "lines": "music, 108 s at 192 kbit/s: 20736 × $0.000008",
    }
    mine = {row["task"]: row["price"] for row in examples.all_examples(prices.load(file))}
    assert mine["video.combine"] == "$0.100000"


def test_the_largest_example_is_a_video_with_sound() -> None:
    task, given = examples.largest_example()
    assert task == "video.generate"
    assert "referenceAudioUrl" in given
    longest: Any = max((str(each) for each in TASKS[task].Input.model_json_schema()["examples"]), key=len)
    assert len(str(given)) == len(longest)
    assert examples.priced(task, given, PriceBook.built_in()) == 631_603
