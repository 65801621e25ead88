from __future__ import annotations

import json

import pytest

from pricing.book import PriceBook, PriceBookInvalid

GOOD = """
version = "mine-2"
["image.generate"]
usd_per_megapixel = "0.0251"
minimum_usd = "0.005"
high_detail_factor = "2"
"""


def test_the_built_in_book() -> None:
    book = PriceBook.built_in()
    assert book.as_json() == {
        "version": "2026-11-1",
        "image.generate": {"usd_per_megapixel": "0.02", "minimum_usd": "0.01", "high_detail_factor": "1.5"},
    }


def test_a_book_survives_its_row() -> None:
    book = PriceBook.parse(GOOD)
    assert PriceBook.from_json(json.loads(json.dumps(book.as_json()))) == book
    assert book != PriceBook.built_in()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('version = "mine-2"', "", "version: Field required"),
        ('"mine-2"', '""', "version"),
        ('"mine-2"', '"a b"', "version"),
        ('"mine-2"', "2", "version"),
        ('"0.0251"', "0.0251", "image.generate › usd_per_megapixel"),
        ('"0.0251"', "1", "quoted plain decimal"),
        ('"0.0251"', '"-0.01"', "quoted plain decimal"),
        ('"0.0251"', '"1e-2"', "quoted plain decimal"),
        ('"0.0251"', '"NaN"', "quoted plain decimal"),
        ('"0.0251"', '"Infinity"', "quoted plain decimal"),
        ('"0.0251"', '"0.0000000000001"', "quoted plain decimal"),
        ('"0.0251"', '"٣"', "quoted plain decimal"),
        ('"0.0251"', "true", "quoted plain decimal"),
        ('high_detail_factor = "2"', 'high_detail_factor = "0.5"', "greater than or equal to 1"),
        ('minimum_usd = "0.005"', 'minimum = "0"', "minimum_usd: Field required"),
        ('minimum_usd = "0.005"', 'minimum_usd = "0.005"\nminimum = "0"', "image.generate › minimum: Extra inputs"),
        ('["image.generate"]', '["image.edit"]', "image.edit"),
        ('["image.generate"]', "[image_generate]", "image_generate"),
        ("version", "version = ", "no valid TOML"),
    ],
)
def test_bad_books_are_refused_by_name(old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(PriceBookInvalid, match=says):
        PriceBook.parse(GOOD.replace(old, new))


def test_a_damaged_row_is_refused() -> None:
    with pytest.raises(PriceBookInvalid, match=r"image\.generate"):
        PriceBook.from_json({"version": "x"})
