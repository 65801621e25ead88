from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.book import PriceBook
from pricing.registry import quote
from tests.pricing.books import BOOK, FACTORS, MINIMA, RATES, book_with, lines_add_up, rounded
from tests.tasks.asking import URL, prepare

SIDES = st.integers(8, 40).map(lambda steps: steps * 32)
FRAMES = st.integers(1, 75).map(lambda n: 8 * n + 1)
BOOKS = st.builds(
    lambda rate, minimum, audio, extreme: book_with(
        "video.generate",
        usd_per_megapixel_frame=rate,
        minimum_usd=minimum,
        reference_audio_factor=audio,
        extreme_quality_factor=extreme,
    ),
    RATES,
    MINIMA,
    FACTORS,
    FACTORS,
)


def price(book: PriceBook = BOOK, **fields: Any) -> int:
    made = quote("video.generate", prepare("video.generate", **fields).effective_input, book)
    lines_add_up(made)
    return made.amount_micros


@pytest.mark.parametrize(
    ("fields", "micros"),
    [
        # 1280 × 704 = 0.90112 MP; × 185 = 166.7072; × $0.0012 = $0.20004864
        ({}, 200_049),
        # 1920 × 1088 = 2.08896 MP; × 185 = 386.4576; × $0.0012 = $0.46374912
        ({"width": 1920, "height": 1088, "durationSeconds": 6}, 463_749),
        # 256 × 256 = 0.065536 MP; × 9 = 0.589824; × $0.0012 = $0.0007077888, below the minimum of $0.02
        ({"width": 256, "height": 256, "durationFrames": 9}, 20_000),
        ({"width": 256, "height": 256, "durationFrames": 9, "extremeQuality": True}, 30_000),
        # $0.20004864 × 1.25 = $0.2500608; × 1.5 = $0.3750912
        ({"referenceAudio": URL, "startFrameImage": URL}, 250_061),
        ({"referenceAudio": URL, "startFrameImage": URL, "extremeQuality": True}, 375_091),
        # 1280 × 704 × 257 = 231.58784; × $0.0012 = $0.277905408: 3 overlap frames are among the 257
        ({"durationFrames": 257, "overlapFrameImages": [URL] * 3}, 277_905),
    ],
)
def test_prices(fields: dict[str, Any], micros: int) -> None:
    assert price(**fields) == micros


@pytest.mark.parametrize(
    "free",
    [
        {"startFrameImage": URL},
        {"startFrameImage": URL, "finalFrameImage": URL},
        {"overlapFrameImages": [URL] * 33},
        {"interpolationFps": 0},
        {"interpolationFps": 30},
        {"negativePrompt": "blur"},
    ],
)
def test_pictures_and_interpolation_are_free(free: dict[str, Any]) -> None:
    assert price(**free) == price()


def test_what_a_bill_looks_like() -> None:
    fields = {"referenceAudio": URL, "startFrameImage": URL, "extremeQuality": True}
    made = quote("video.generate", prepare("video.generate", **fields).effective_input, BOOK).billing_json()
    assert [(line["label"], line["amountMicros"]) for line in made["lineItems"]] == [
        ("video 1280×704, 185 frames", 200_049),
        ("reference audio ×1.25", 50_012),
        ("extreme quality ×1.5", 125_030),
    ]
    assert made["lineItems"][0]["quantity"] == "166.7072"


@given(
    width=SIDES,
    height=SIDES,
    frames=FRAMES,
    start=st.booleans(),
    audio=st.booleans(),
    extreme=st.booleans(),
    book=BOOKS,
)
def test_the_price_is_the_closed_formula(
    width: int, height: int, frames: int, start: bool, audio: bool, extreme: bool, book: PriceBook
) -> None:
    rates = book.video_generate
    base = Fraction(width * height * frames, 10**6) * Fraction(rates.usd_per_megapixel_frame)
    factor = Fraction(rates.reference_audio_factor) if audio else Fraction(1)
    factor *= Fraction(rates.extreme_quality_factor) if extreme else 1
    fields: dict[str, Any] = {"width": width, "height": height, "durationFrames": frames, "extremeQuality": extreme}
    fields |= {"startFrameImage": URL} if start or audio else {}
    fields |= {"referenceAudio": URL} if audio else {}
    assert price(book, **fields) == rounded(max(base, Fraction(rates.minimum_usd)) * factor)


@given(seconds=st.integers(1000, 19_000), more=st.integers(0, 1000), fps=st.integers(8, 30), wider=st.integers(0, 8))
def test_the_price_never_falls_with_work(seconds: int, more: int, fps: int, wider: int) -> None:
    size: dict[str, Any] = {"width": 512, "height": 512, "sampledFps": fps}
    less = price(**size, durationSeconds=seconds / 1000)
    assert less <= price(**size, durationSeconds=(seconds + more) / 1000)
    assert less <= price(**{**size, "width": 512 + 32 * wider}, durationSeconds=seconds / 1000)
    assert less <= price(**size, durationSeconds=seconds / 1000, startFrameImage=URL, referenceAudio=URL)
    assert less <= price(**size, durationSeconds=seconds / 1000, extremeQuality=True)


@pytest.mark.parametrize(("clips", "micros"), [(2, 10_000), (3, 15_000), (50, 250_000)])
def test_combining_is_priced_by_clip(clips: int, micros: int) -> None:
    made = quote("video.combine", prepare("video.combine", videoUrls=[URL] * clips).effective_input, BOOK)
    assert made.amount_micros == micros
    lines_add_up(made)


@given(clips=st.integers(2, 49), rate=MINIMA)
def test_combining_is_the_closed_formula(clips: int, rate: Any) -> None:
    book = book_with("video.combine", usd_per_clip=rate)
    made = [quote("video.combine", {"videoUrls": [URL] * count}, book) for count in (clips, clips + 1)]
    assert made[0].amount_micros == rounded(clips * Fraction(rate)) <= made[1].amount_micros
