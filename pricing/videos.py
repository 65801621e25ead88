"""What clips cost."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pricing.book import PriceBook
from pricing.images import PIXELS_PER_MEGAPIXEL
from pricing.quotes import Bill, Quote
from tasks.video_generate import frames


def video_generate(effective_input: Mapping[str, Any], book: PriceBook) -> Quote:
    """By pixels of the sampled frames, overlap included, with a minimum; more with reference audio and in extreme quality.

    The same for image-to-video and text-to-video; interpolation and pictures are free.
    """
    rates = book.video_generate
    width, height, count = effective_input["width"], effective_input["height"], frames(effective_input)
    bill = Bill()
    megapixel_frames = Fraction(width * height * count, PIXELS_PER_MEGAPIXEL)
    label = f"video {width}×{height}, {count} frames"
    bill.charge(label, megapixel_frames, "megapixel-frame", rates.usd_per_megapixel_frame)
    bill.at_least(rates.minimum_usd)
    if effective_input["referenceAudio"] is not None:
        bill.times("reference audio", rates.reference_audio_factor)
    if effective_input["extremeQuality"]:
        bill.times("extreme quality", rates.extreme_quality_factor)
    return bill.quote(book.version)


def video_combine(effective_input: Mapping[str, Any], book: PriceBook) -> Quote:
    """By input clips, of which there are two at least."""
    bill = Bill()
    bill.charge("combined clips", len(effective_input["videoUrls"]), "clip", book.video_combine.usd_per_clip)
    return bill.quote(book.version)
