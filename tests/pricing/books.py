"""Price books with rates of a test's own, and what holds for every quote."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import strategies as st

from pricing.book import PriceBook
from pricing.quotes import Quote

BOOK = PriceBook.built_in()
RATES = st.decimals(min_value=0, max_value=100, places=7)
MINIMA = st.decimals(min_value="0.000001", max_value=100, places=7)
FACTORS = st.decimals(min_value=1, max_value=9, places=5)


def book_with(task: str, **rates: Decimal) -> PriceBook:
    """The built-in book with other rates for one task."""
    written = {name: f"{rate:f}" for name, rate in rates.items()}
    return PriceBook.from_json({**BOOK.as_json(), "version": "test", task: written})


def rounded(usd: Fraction | int) -> int:
    """Micro-dollars, half up."""
    return int(usd * 10**6 + Fraction(1, 2))


def lines_add_up(made: Quote) -> None:
    """No line is negative, they sum to the amount, and each is its quantity times its unit price but for rounding."""
    assert made.amount_micros > 0
    assert made.amount_micros == sum(line.amount_micros for line in made.line_items)
    assert all(line.amount_micros >= 0 for line in made.line_items)
    for line in made.billing_json()["lineItems"]:
        product = Decimal(line["quantity"]) * Decimal(line["unitPriceUsd"]) * 10**6
        assert abs(product - line["amountMicros"]) <= 1
