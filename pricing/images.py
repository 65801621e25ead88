"""What pictures cost."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pricing.book import PriceBook
from pricing.quotes import Bill, Quote

PIXELS_PER_MEGAPIXEL = 1_000_000


def image_generate(effective_input: Mapping[str, Any], book: PriceBook) -> Quote:
    """By output pixels, with a minimum, more in high detail; reference images are free."""
    rates = book.image_generate
    width, height = effective_input["width"], effective_input["height"]
    bill = Bill()
    megapixels = Fraction(width * height, PIXELS_PER_MEGAPIXEL)
    bill.charge(f"image {width}×{height}", megapixels, "megapixel", rates.usd_per_megapixel)
    bill.at_least(rates.minimum_usd)
    if effective_input["highDetail"]:
        bill.times("high detail", rates.high_detail_factor)
    return bill.quote(book.version)


def image_edit(effective_input: Mapping[str, Any], book: PriceBook) -> Quote:
    """One price each, more in high detail: the source, which sets the size, is fetched only when the job runs."""
    rates = book.image_edit
    bill = Bill()
    bill.charge("edited image", 1, "image", rates.usd_per_image)
    if effective_input["highDetail"]:
        bill.times("high detail", rates.high_detail_factor)
    return bill.quote(book.version)
