"""`killatamata quote --all-examples`: what every request of the public documentation costs, without a service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pricing.book import PriceBook
from pricing.registry import quote
from tasks.examples import EXAMPLES
from tasks.registry import TASKS

REPEATED = "image.generate"  # the documentation ends with its first request again, with an idempotency key in the body


def all_examples(book: PriceBook | None = None) -> list[dict[str, str]]:
    """One row per example: its task, its number among that task's, the price in dollars, and how it came about.

    Priced after `book`, or after the built-in one.
    """
    prices = PriceBook.built_in() if book is None else book
    rows = [
        _row(task, number, given, prices) for task, inputs in EXAMPLES.items() for number, given in enumerate(inputs, 1)
    ]
    again = EXAMPLES[REPEATED]
    return [*rows, _row(REPEATED, len(again) + 1, again[0], prices)]


def largest_example() -> tuple[str, dict[str, Any]]:
    """The task and the input of the public example with the longest JSON: what validation is timed with."""
    pairs = ((task, given) for task, inputs in EXAMPLES.items() for given in inputs)
    return max(pairs, key=lambda pair: len(repr(pair)))


def priced(task: str, given: Mapping[str, Any], book: PriceBook) -> int:
    """Validate, complete and price an input, as a submit does; returns micro-dollars."""
    return quote(task, TASKS[task].prepare(given).effective_input, book).amount_micros


def _row(task: str, number: int, given: Mapping[str, Any], book: PriceBook) -> dict[str, str]:
    billing = quote(task, TASKS[task].prepare(given).effective_input, book).billing_json()
    lines = (f"{line['label']}: {line['quantity']} × ${line['unitPriceUsd']}" for line in billing["lineItems"])
    return {"task": task, "example": str(number), "price": f"${billing['amountUsd']}", "lines": "; ".join(lines)}
