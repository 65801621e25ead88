"""Money is an integer number of micro-dollars (1 USD = 1 000 000); never a float."""

from __future__ import annotations

import re
from fractions import Fraction

MICROS_PER_USD = 1_000_000

_DOLLARS = re.compile(r"(?P<sign>-?)(?P<whole>[0-9]{1,12})(?:\.(?P<part>[0-9]{1,6}))?")


def usd(micros: int) -> str:
    """`micros` as a decimal dollar string with six places: `165888` → `"0.165888"`."""
    sign = "-" if micros < 0 else ""
    whole, part = divmod(abs(micros), MICROS_PER_USD)
    return f"{sign}{whole}.{part:06d}"


def parse_usd(text: str) -> int:
    """Micro-dollars of a decimal dollar amount such as `"12.50"`, below a trillion dollars.

    Raises:
        ValueError: not a plain decimal number, or finer than a micro-dollar.
    """
    parts = _DOLLARS.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text[:40]!r} is not an amount in dollars such as 12.50, with at most six decimal places")
    micros = int(parts["whole"]) * MICROS_PER_USD + int((parts["part"] or "").ljust(6, "0"))
    return -micros if parts["sign"] else micros


def round_half_up(amount: Fraction, scale: int = 1) -> int:
    """`amount` times `scale`, rounded to the nearest integer, halves away from zero.

    In integers: operations on fractions look for common divisors each time, and every submit is priced.
    """
    numerator, denominator = abs(amount.numerator) * scale, amount.denominator
    rounded = (2 * numerator + denominator) // (2 * denominator)
    return rounded if amount.numerator >= 0 else -rounded
