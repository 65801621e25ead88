"""A price and how it came about: exact fractions inside, whole micro-dollars outside.

Lines are added in one order: base, then minimum, then multipliers. Only the running total is ever rounded, half up, and
a line's amount is the difference of two rounded totals; so the lines add up to the price exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from core.money import MICROS_PER_USD, round_half_up, usd

_PLACES = 12


@dataclass(frozen=True)
class LineItem:
    """`quantity` of `unit` at `unit_price_usd` each; `amount_micros` is what the line adds to the price."""

    label: str
    quantity: Fraction
    unit: str
    unit_price_usd: Fraction
    amount_micros: int

    def as_json(self) -> dict[str, Any]:
        """The entry of `billing.lineItems`; quantity and unit price are decimal strings."""
        return {
            "label": self.label,
            "quantity": decimal_text(self.quantity),
            "unit": self.unit,
            "unitPriceUsd": decimal_text(self.unit_price_usd),
            "amountMicros": self.amount_micros,
        }


@dataclass(frozen=True)
class Quote:
    """What a job costs, whatever its run takes; `amount_micros` is the sum of the lines."""

    amount_micros: int
    line_items: tuple[LineItem, ...]
    price_book_version: str

    def billing_json(self) -> dict[str, Any]:
        """The part of `billing` that is known before there is a hold."""
        return {
            "currency": "USD",
            "amountUsd": usd(self.amount_micros),
            "amountMicros": self.amount_micros,
            "priceBookVersion": self.price_book_version,
            "lineItems": [item.as_json() for item in self.line_items],
        }


class Bill:
    """A quote in the making: call `charge`, then `at_least`, then `times`, as often as the rule needs."""

    def __init__(self) -> None:
        self._total_usd = Fraction(0)
        self._micros = 0
        self._lines: list[LineItem] = []

    def charge(self, label: str, quantity: Fraction | int, unit: str, unit_price_usd: Decimal) -> None:
        """Add a base price."""
        self._add(label, Fraction(quantity), unit, _exact(unit_price_usd))

    def at_least(self, minimum_usd: Decimal) -> None:
        """Raise the total to a minimum, if it is below."""
        missing = _exact(minimum_usd) - self._total_usd
        if missing > 0:
            self._add("minimum charge", Fraction(1), "job", missing)

    def times(self, label: str, factor: Decimal | Fraction) -> None:
        """Multiply the total: the line is the surcharge, a share of the total so far."""
        self._add(f"{label} ×{decimal_text(Fraction(factor))}", Fraction(factor) - 1, "surcharge", self._total_usd)

    def quote(self, price_book_version: str) -> Quote:
        """The finished quote."""
        return Quote(self._micros, tuple(self._lines), price_book_version)

    def _add(self, label: str, quantity: Fraction, unit: str, unit_price_usd: Fraction) -> None:
        self._total_usd += quantity * unit_price_usd
        before, self._micros = self._micros, round_half_up(self._total_usd, MICROS_PER_USD)
        self._lines.append(LineItem(label, quantity, unit, unit_price_usd, self._micros - before))


@lru_cache(maxsize=1024)
def _exact(rate: Decimal) -> Fraction:
    """A rate of the price book, of which there are few, as a fraction."""
    return Fraction(rate)


@lru_cache(maxsize=1024)
def decimal_text(value: Fraction) -> str:
    """`value` as a plain decimal without trailing zeros, rounded half up to twelve places where it is longer."""
    scaled = round_half_up(value, 10**_PLACES)
    whole, part = divmod(abs(scaled), 10**_PLACES)
    text = f"{whole}.{part:0{_PLACES}d}".rstrip("0").rstrip(".")
    return f"-{text}" if scaled < 0 else text
