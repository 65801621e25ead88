from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.money import round_half_up
from pricing.quotes import Bill, decimal_text

AMOUNTS = st.fractions(min_value=0, max_value=1000)
DOLLARS = st.decimals(min_value=0, max_value=1000, places=8)


@given(
    charges=st.lists(st.tuples(AMOUNTS, DOLLARS), max_size=5),
    minimum=DOLLARS,
    factors=st.lists(st.fractions(min_value=1, max_value=5), max_size=4),
)
def test_any_bill_rounds_once_and_adds_up(
    charges: list[tuple[Fraction, Decimal]], minimum: Decimal, factors: list[Fraction]
) -> None:
    bill, exact = Bill(), Fraction(0)
    for quantity, unit_price in charges:
        bill.charge("part", quantity, "piece", unit_price)
        exact += quantity * Fraction(unit_price)
    bill.at_least(minimum)
    exact = max(exact, Fraction(minimum))
    for factor in factors:
        bill.times("extra", factor)
        exact *= factor
    quote = bill.quote("v")
    assert quote.amount_micros == round_half_up(exact * 10**6) == sum(line.amount_micros for line in quote.line_items)


def test_halves_of_a_micro_dollar_go_up_once() -> None:
    bill = Bill()
    for _ in range(3):
        bill.charge("half", 1, "piece", Decimal("0.0000005"))
    quote = bill.quote("v")
    assert [line.amount_micros for line in quote.line_items] == [1, 0, 1]
    assert quote.amount_micros == 2


def test_a_minimum_that_is_met_is_no_line() -> None:
    bill = Bill()
    bill.charge("clip", 2, "clip", Decimal("0.005"))
    bill.at_least(Decimal("0.01"))
    assert len(bill.quote("v").line_items) == 1


def test_an_empty_bill_is_free() -> None:
    assert Bill().quote("v").billing_json() == {
        "currency": "USD",
        "amountUsd": "0.000000",
        "amountMicros": 0,
        "priceBookVersion": "v",
        "lineItems": [],
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(100), "100"),
        (Fraction(3, 2), "1.5"),
        (Fraction(-1, 4), "-0.25"),
        (Fraction(2, 3), "0.666666666667"),
        (Fraction(1, 10**12), "0.000000000001"),
        (Fraction(1, 10**13), "0"),
        (Fraction(-1, 10**13), "0"),
        (Fraction(10**30), "1" + "0" * 30),
    ],
)
def test_decimal_text(value: Fraction, text: str) -> None:
    assert decimal_text(value) == text
