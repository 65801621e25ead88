from __future__ import annotations

import json
from importlib import resources

import pytest

from pricing.book import PriceBook, PriceBookInvalid

GOOD = resources.files("pricing").joinpath("book.toml").read_text("utf-8").replace("2026-11-2", "mine-2")


def test_the_built_in_book() -> None:
    book = PriceBook.built_in()
    assert book.as_json() == {
        "version": "2026-11-2",
        "image.generate": {"usd_per_megapixel": "0.02", "minimum_usd": "0.01", "high_detail_factor": "1.5"},
        "image.edit": {"usd_per_image": "0.03", "high_detail_factor": "1.5"},
        "video.generate": {
            "usd_per_megapixel_frame": "0.0012",
            "minimum_usd": "0.02",
            "reference_audio_factor": "1.25",
            "extreme_quality_factor": "1.5",
        },
        "video.combine": {"usd_per_clip": "0.005"},
        "audio.speak": {
            "usd_to_3_s": "0.01",
            "usd_to_7_s": "0.02",
            "usd_to_10_s": "0.03",
            "usd_per_further_3_s": "0.01",
        },
        "audio.annotation.reference": {
            "usd_to_60_s": "0.03",
            "usd_to_120_s": "0.05",
            "usd_to_180_s": "0.07",
            "usd_per_further_60_s": "0.02",
        },
        "ace.step.create": {"usd_per_second_and_kbps": "0.000008", "minimum_usd": "0.05"},
        "moss.sound.effect": {"usd_per_second": "0.004", "usd_per_token": "0.000008", "minimum_usd": "0.01"},
        "trellis.generate": {
            "usd_at_512": "0.10",
            "usd_at_1024": "0.20",
            "usd_at_1536": "0.35",
            "large_texture_factor": "1.5",
        },
    }


def test_a_book_survives_its_row() -> None:
    book = PriceBook.parse(GOOD.replace('"0.03"', '"0.0351"'))
    row = json.loads(json.dumps(book.as_json()))
    assert PriceBook.from_json(row) == PriceBook.from_row(row) == book
    assert book != PriceBook.parse(GOOD)


def test_a_row_from_before_a_task_existed_still_prices_what_it_priced() -> None:
    rates = {"usd_per_megapixel": "0.07", "minimum_usd": "0.01", "high_detail_factor": "2"}
    old = PriceBook.from_row({"version": "2026-11-1", "image.generate": rates})
    assert old.version == "2026-11-1"
    assert old.as_json()["image.generate"] == rates
    assert old.video_combine == PriceBook.built_in().video_combine


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('version = "mine-2"', "", "version: Field required"),
        ('"mine-2"', '""', "version"),
        ('"mine-2"', '"a b"', "version"),
        ('"mine-2"', "2", "version"),
        ('"0.02"\nminimum', "0.02\nminimum", "image.generate › usd_per_megapixel"),
        ('"0.0012"', "1", "video.generate › usd_per_megapixel_frame.*quoted plain decimal"),
        ('"0.0012"', '"-0.01"', "quoted plain decimal"),
        ('"0.0012"', '"1e-2"', "quoted plain decimal"),
        ('"0.0012"', '"NaN"', "quoted plain decimal"),
        ('"0.0012"', '"Infinity"', "quoted plain decimal"),
        ('"0.0012"', '"0.0000000000001"', "quoted plain decimal"),
        ('"0.0012"', '"٣"', "quoted plain decimal"),
        ('"0.0012"', "true", "quoted plain decimal"),
        ('audio_factor = "1.25"', 'audio_factor = "0.5"', "greater than or equal to 1"),
        ('minimum_usd = "0.05"', 'minimum = "0"', "ace.step.create › minimum_usd: Field required"),
        ('usd_per_clip = "0.005"', 'usd_per_clip = "0"', "video.combine › usd_per_clip.*greater than or equal"),
        ('usd_to_7_s = "0.02"', 'usd_to_7_s = "0.04"', "usd_to_10_s is below usd_to_7_s"),
        ('usd_to_120_s = "0.05"', 'usd_to_120_s = "0.01"', "usd_to_120_s is below usd_to_60_s"),
        ('usd_at_1536 = "0.35"', 'usd_at_1536 = "0.05"', "usd_at_1536 is below usd_at_1024: more work"),
        ('["image.edit"]', '["image.edit"]\nminimum = "0"', "image.edit › minimum: Extra inputs"),
        ('["trellis.generate"]', '["trellis.generat"]', "trellis.generate: Field required; trellis.generat: Extra"),
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
    with pytest.raises(PriceBookInvalid, match="version"):
        PriceBook.from_row({"version": ""})
