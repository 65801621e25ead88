"""What speech, annotations, music and sounds cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from media import arithmetic
from pricing.book import PriceBook
from pricing.quotes import Bill, Quote
from tasks import audio_annotation_reference
from tasks.media_fields import kbps

SPEECH_BANDS = (3, 7, 10)
"""Seconds."""
SPEECH_STEP = 3


def audio_speak(effective_input: Mapping[str, Any], book: PriceBook) -> Quote:
    """By the band of the text's estimated duration; above the last band, per started 3 s."""
    rates = book.audio_speak
    prices = dict(zip(SPEECH_BANDS, (rates.usd_to_3_s, rates.usd_to_7_s, rates.usd_to_10_s), strict=True))
    top = arithmetic.band(arithmetic.speech_seconds(effective_input["text"]), SPEECH_BANDS, SPEECH_STEP)
    last = SPEECH_BANDS[-1]
    bill = Bill()
    bill.charge(f"speech of at most {min(top, last)} s", 1, "clip", prices[min(top, last)])
    if top > last:
        bill.charge(f"above {last} s", (top - last) // SPEECH_STEP, "started 3 s", rates.usd_per_further_3_s)
    return bill.quote(book.version)


def annotation_reference(effective_input: Mapping[str, Any], book: PriceBook) -> Quote:
    """By the band of the transcript's length or the declared duration; above the last band, per started 60 s."""
    rates = book.audio_annotation_reference
    bands, step = audio_annotation_reference.BANDS, audio_annotation_reference.BAND_STEP
    prices = dict(zip(bands, (rates.usd_to_60_s, rates.usd_to_120_s, rates.usd_to_180_s), strict=True))
    top, last = audio_annotation_reference.priced_band(effective_input), bands[-1]
    bill = Bill()
    bill.charge(f"annotation, {min(top, last)} s band", 1, "recording", prices[min(top, last)])
    if top > last:
        bill.charge(f"above {last} s", (top - last) // step, "started 60 s", rates.usd_per_further_60_s)
    return bill.quote(book.version)


def ace_step_create(effective_input: Mapping[str, Any], book: PriceBook) -> Quote:
    """By seconds times thousands of bits a second, whatever the format, with a minimum."""
    rates = book.ace_step_create
    seconds, rate = effective_input["durationSeconds"], kbps(effective_input["quality"])
    bill = Bill()
    quantity = arithmetic.exact(seconds) * rate
    bill.charge(f"music, {seconds} s at {rate} kbit/s", quantity, "kilobit", rates.usd_per_second_and_kbps)
    bill.at_least(rates.minimum_usd)
    return bill.quote(book.version)


def moss_sound_effect(effective_input: Mapping[str, Any], book: PriceBook) -> Quote:
    """By seconds and by the tokens allowed, with a minimum."""
    rates = book.moss_sound_effect
    bill = Bill()
    bill.charge("sound effect", arithmetic.exact(effective_input["durationSeconds"]), "second", rates.usd_per_second)
    bill.charge("tokens allowed", effective_input["maxNewTokens"], "token", rates.usd_per_token)
    bill.at_least(rates.minimum_usd)
    return bill.quote(book.version)
