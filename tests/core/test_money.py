from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.money import parse_usd, round_half_up, usd


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0.000000"), (1, "0.000001"), (165_888, "0.165888"), (-20_972, "-0.020972"), (12_500_000, "12.500000")],
)
def test_usd(micros: int, text: str) -> None:
    assert usd(micros) == text


@given(st.integers(min_value=-(10**18) + 1, max_value=10**18 - 1))
def test_parse_usd_undoes_usd(micros: int) -> None:
    assert parse_usd(usd(micros)) == micros


@pytest.mark.parametrize(
    ("text", "micros"),
    [("12.50", 12_500_000), ("0.02", 20_000), ("7", 7_000_000), ("007.1", 7_100_000), ("-0.5", -500_000), ("-0", 0)],
)
def test_parse_usd(text: str, micros: int) -> None:
    assert parse_usd(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "abc",
        "$5",
        "5 USD",
        " 5",
        "5\n",
        "+5",
        "--5",
        ".5",
        "5.",
        "1,5",
        "1_000",
        "1e3",
        "1e999999",
        "0.0000001",
        "nan",
        "sNaN",
        "inf",
        "-Infinity",
        "0x10",
        "١٢",
        "9999999999999999999999.9999999",
        "9" * 1_000_000,
    ],
)
def test_parse_usd_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount") as refusal:
        parse_usd(text)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("amount", "rounded"),
    [
        (Fraction(0), 0),
        (Fraction(1, 2), 1),
        (Fraction(3, 2), 2),
        (Fraction(5, 2), 3),
        (Fraction(-1, 2), -1),
        (Fraction(-5, 2), -3),
        (Fraction(49, 100), 0),
        (Fraction(10**30 + 1, 2), 5 * 10**29 + 1),
    ],
)
def test_round_half_up(amount: Fraction, rounded: int) -> None:
    assert round_half_up(amount) == rounded


@given(st.fractions())
def test_rounding_moves_by_at_most_a_half(amount: Fraction) -> None:
    assert abs(round_half_up(amount) - amount) <= Fraction(1, 2)
    assert round_half_up(-amount) == -round_half_up(amount)
