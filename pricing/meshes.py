"""What 3D models cost."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pricing.book import PriceBook
from pricing.quotes import Bill, Quote
from tasks.trellis_generate import steps

LARGE_TEXTURE = 2048
"""Pixels of a side; a larger texture costs more."""
INCLUDED_STEPS = 36
"""Sampling steps of all stages together that the base price includes."""


def trellis_generate(effective_input: Mapping[str, Any], book: PriceBook) -> Quote:
    """By the mesh's resolution; more with a large texture, and in proportion to the steps above those included."""
    rates = book.trellis_generate
    prices = {512: rates.usd_at_512, 1024: rates.usd_at_1024, 1536: rates.usd_at_1536}
    resolution, count = effective_input["meshResolution"], steps(effective_input)
    bill = Bill()
    bill.charge(f"mesh at {resolution}", 1, "model", prices[resolution])
    if effective_input["textureSize"] > LARGE_TEXTURE:
        bill.times(f"texture above {LARGE_TEXTURE}", rates.large_texture_factor)
    if count > INCLUDED_STEPS:
        bill.times(f"{count} steps of {INCLUDED_STEPS} included", Fraction(count, INCLUDED_STEPS))
    return bill.quote(book.version)
