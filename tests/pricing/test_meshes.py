from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.book import PriceBook
from pricing.registry import quote
from tests.pricing.books import BOOK, FACTORS, MINIMA, book_with, lines_add_up, rounded
from tests.tasks.asking import prepare

TASK = "trellis.generate"
RESOLUTIONS = (512, 1024, 1536)
SIZES = (512, 1024, 2048, 4096)
COUNTS = ("sparseStructureSteps", "shapeSteps", "textureSteps")
STEPS = st.integers(1, 50)
GROWING = {"meshResolution": RESOLUTIONS, "textureSize": SIZES, **dict.fromkeys(COUNTS, (13, 37, 50))}
"""What the price goes by, one by one, and values of it in ascending order."""


def price(book: PriceBook = BOOK, **fields: Any) -> int:
    made = quote(TASK, prepare(TASK, **fields).effective_input, book)
    lines_add_up(made)
    return made.amount_micros


@pytest.mark.parametrize(
    ("fields", "micros"),
    [
        ({"qualityPreset": "fast"}, 100_000),
        ({}, 200_000),
        # 12 + 12 + 12 = 36 steps are included
        ({"qualityPreset": "high"}, 350_000),
        ({"qualityPreset": "high", "meshResolution": 512}, 100_000),
        ({"textureSize": 2048}, 200_000),
        ({"textureSize": 4096}, 300_000),
        # 12 + 12 + 13 = 37 steps: $0.35 × 37 ÷ 36 = $0.359722…
        ({"qualityPreset": "high", "textureSteps": 13}, 359_722),
        # 50 × 3 = 150 steps, a large texture: $0.35 × 1.5 × 150 ÷ 36 = $2.1875
        (
            {
                "qualityPreset": "high",
                "textureSize": 4096,
                "sparseStructureSteps": 50,
                "shapeSteps": 50,
                "textureSteps": 50,
            },
            2_187_500,
        ),
        ({"sparseStructureSteps": 1, "shapeSteps": 1, "textureSteps": 1}, 200_000),
        ({"targetFaceCount": 500_000, "maxViews": 8}, 200_000),
    ],
)
def test_prices(fields: dict[str, Any], micros: int) -> None:
    assert price(**fields) == micros


@given(
    bands=st.lists(MINIMA, min_size=3, max_size=3).map(sorted),
    factor=FACTORS,
    which=st.integers(0, 2),
    size=st.sampled_from(SIZES),
    counts=st.tuples(STEPS, STEPS, STEPS),
)
def test_the_price_is_the_closed_formula_and_never_falls(
    bands: list[Any], factor: Any, which: int, size: int, counts: tuple[int, int, int]
) -> None:
    rates = dict(zip(("usd_at_512", "usd_at_1024", "usd_at_1536"), bands, strict=True))
    book = book_with(TASK, **rates, large_texture_factor=factor)
    fields = {"textureSize": size, **dict(zip(COUNTS, counts, strict=True))}
    exact = Fraction(bands[which]) * (Fraction(factor) if size == 4096 else 1)
    exact *= max(Fraction(sum(counts), 36), Fraction(1))
    fields["meshResolution"] = RESOLUTIONS[which]
    made = price(book, **fields)
    assert made == rounded(exact)
    for name, choices in GROWING.items():
        dearer = [price(book, **{**fields, name: more}) for more in choices if more > fields[name]]
        assert [made, *dearer] == sorted([made, *dearer]), name
