from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.book import ImageGenerateRates, PriceBook
from pricing.registry import RULES, quote
from tasks.registry import TASKS
from tests.pricing.books import FACTORS, MINIMA, RATES, book_with, lines_add_up, rounded

BOOK = PriceBook.built_in()


def price(width: int, height: int, high_detail: bool = False, book: PriceBook = BOOK) -> int:
    return quote("image.generate", effective(width, height, high_detail), book).amount_micros


def effective(width: int, height: int, high_detail: bool) -> dict[str, Any]:
    return {"width": width, "height": height, "highDetail": high_detail, "referenceImages": ["https://a.example/"]}


@pytest.mark.parametrize(
    ("width", "height", "high_detail", "micros"),
    [
        (1024, 1024, False, 20_972),
        (1536, 1024, False, 31_457),
        (512, 512, False, 10_000),
        (256, 256, False, 10_000),
        (704, 704, False, 10_000),
        (736, 704, False, 10_363),
        (512, 512, True, 15_000),
        (1024, 1024, True, 31_457),
        (1536, 1024, True, 47_186),
        (2048, 2048, False, 83_886),
        (2048, 2048, True, 125_829),
    ],
)
def test_prices(width: int, height: int, high_detail: bool, micros: int) -> None:
    assert price(width, height, high_detail) == micros


def test_the_documented_billing_object() -> None:
    assert quote("image.generate", effective(1024, 1024, False), BOOK).billing_json() == {
        "currency": "USD",
        "amountUsd": "0.020972",
        "amountMicros": 20972,
        "priceBookVersion": "2026-11-2",
        "lineItems": [
            {
                "label": "image 1024×1024",
                "quantity": "1.048576",
                "unit": "megapixel",
                "unitPriceUsd": "0.02",
                "amountMicros": 20972,
            }
        ],
    }


def test_minimum_and_surcharge_are_lines() -> None:
    lines = quote("image.generate", effective(512, 512, True), BOOK).billing_json()["lineItems"]
    assert [line["amountMicros"] for line in lines] == [5243, 4757, 5000]
    assert [line["label"] for line in lines] == ["image 512×512", "minimum charge", "high detail ×1.5"]
    assert [line["unitPriceUsd"] for line in lines] == ["0.02", "0.00475712", "0.01"]


def test_every_task_has_a_rule_and_every_rule_a_task() -> None:
    assert set(RULES) == set(TASKS)
    for name, each in TASKS.items():
        for example in each.Input.model_json_schema()["examples"]:
            assert quote(name, each.prepare(example).effective_input, BOOK).amount_micros > 0


def test_an_unknown_task_has_no_price() -> None:
    with pytest.raises(KeyError):
        quote("image.paint", {}, BOOK)


SIDES = st.integers(8, 512).map(lambda steps: steps * 32)
BOOKS = st.builds(
    lambda rate, minimum, factor: book_with(
        "image.generate", usd_per_megapixel=rate, minimum_usd=minimum, high_detail_factor=factor
    ),
    RATES,
    MINIMA,
    FACTORS,
)


def closed_formula(width: int, height: int, high_detail: bool, rates: ImageGenerateRates) -> int:
    base = Fraction(width * height, 10**6) * Fraction(rates.usd_per_megapixel)
    factor = Fraction(rates.high_detail_factor) if high_detail else Fraction(1)
    return rounded(max(base, Fraction(rates.minimum_usd)) * factor)


@given(width=SIDES, height=SIDES, high_detail=st.booleans(), book=BOOKS)
def test_the_price_is_the_closed_formula_and_its_lines_add_up(
    width: int, height: int, high_detail: bool, book: PriceBook
) -> None:
    made = quote("image.generate", effective(width, height, high_detail), book)
    assert made.amount_micros == closed_formula(width, height, high_detail, book.image_generate)
    lines_add_up(made)


@given(width=SIDES, height=SIDES, wider=st.integers(0, 100), high_detail=st.booleans(), book=BOOKS)
def test_the_price_never_falls_with_size_or_detail(
    width: int, height: int, wider: int, high_detail: bool, book: PriceBook
) -> None:
    assert 0 <= price(width, height, high_detail, book) <= price(width + 32 * wider, height, high_detail, book)
    assert price(width, height, False, book) <= price(width, height, True, book)
    assert price(width, height, high_detail, book) == price(height, width, high_detail, book)


@pytest.mark.parametrize(("high_detail", "micros"), [(False, 30_000), (True, 45_000)])
def test_an_edit_has_one_price(high_detail: bool, micros: int) -> None:
    made = quote("image.edit", {"sourceImage": "x", "referenceImages": [], "highDetail": high_detail}, BOOK)
    assert made.amount_micros == micros
    lines_add_up(made)


@given(price=MINIMA, factor=FACTORS, high_detail=st.booleans())
def test_an_edit_is_the_closed_formula(price: Decimal, factor: Decimal, high_detail: bool) -> None:
    book = book_with("image.edit", usd_per_image=price, high_detail_factor=factor)
    made = quote("image.edit", {"highDetail": high_detail}, book)
    assert made.amount_micros == rounded(Fraction(price) * (Fraction(factor) if high_detail else 1))
    lines_add_up(made)
