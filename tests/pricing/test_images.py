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
        "priceBookVersion": "2026-11-1",
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
RATES = st.decimals(min_value=0, max_value=100, places=7)
MINIMA = st.decimals(min_value="0.000001", max_value=100, places=7)
BOOKS = st.builds(
    lambda rate, minimum, factor: PriceBook(
        version="test",
        **{
            "image.generate": ImageGenerateRates.model_validate(
                {"usd_per_megapixel": f"{rate:f}", "minimum_usd": f"{minimum:f}", "high_detail_factor": f"{factor:f}"}
            )
        },
    ),
    RATES,
    MINIMA,
    st.decimals(min_value=1, max_value=9, places=5),
)


def closed_formula(width: int, height: int, high_detail: bool, rates: ImageGenerateRates) -> int:
    base = Fraction(width * height, 10**6) * Fraction(rates.usd_per_megapixel)
    factor = Fraction(rates.high_detail_factor) if high_detail else Fraction(1)
    exact = max(base, Fraction(rates.minimum_usd)) * factor * 10**6
    return int(exact + Fraction(1, 2))


@given(width=SIDES, height=SIDES, high_detail=st.booleans(), book=BOOKS)
def test_the_price_is_the_closed_formula_and_its_lines_add_up(
    width: int, height: int, high_detail: bool, book: PriceBook
) -> None:
    made = quote("image.generate", effective(width, height, high_detail), book)
    assert made.amount_micros == closed_formula(width, height, high_detail, book.image_generate)
    assert made.amount_micros == sum(line.amount_micros for line in made.line_items)
    assert all(line.amount_micros >= 0 for line in made.line_items)
    for line in made.billing_json()["lineItems"]:
        product = Decimal(line["quantity"]) * Decimal(line["unitPriceUsd"]) * 10**6
        assert abs(product - line["amountMicros"]) <= 1


@given(width=SIDES, height=SIDES, wider=st.integers(0, 100), high_detail=st.booleans(), book=BOOKS)
def test_the_price_never_falls_with_size_or_detail(
    width: int, height: int, wider: int, high_detail: bool, book: PriceBook
) -> None:
    assert 0 <= price(width, height, high_detail, book) <= price(width + 32 * wider, height, high_detail, book)
    assert price(width, height, False, book) <= price(width, height, True, book)
    assert price(width, height, high_detail, book) == price(height, width, high_detail, book)
