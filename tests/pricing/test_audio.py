from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.book import PriceBook
from pricing.registry import quote
from tests.pricing.books import BOOK, MINIMA, RATES, book_with, lines_add_up, rounded
from tests.tasks.asking import CLONE, prepare

BANDS = st.lists(MINIMA, min_size=3, max_size=3).map(sorted)


def price(task: str, book: PriceBook = BOOK, **fields: Any) -> int:
    made = quote(task, prepare(task, **fields).effective_input, book)
    lines_add_up(made)
    return made.amount_micros


@pytest.mark.parametrize(
    ("characters", "micros"),
    [
        (40, 10_000),
        (45, 10_000),
        (46, 20_000),
        (105, 20_000),
        (106, 30_000),
        (150, 30_000),
        # 151 ÷ 15 = 10.07 s: one started 3 s above 10 s; 195 ÷ 15 = 13 s: still one; 600 ÷ 15 = 40 s: ten
        (151, 40_000),
        (195, 40_000),
        (196, 50_000),
        (600, 130_000),
    ],
)
def test_speech(characters: int, micros: int) -> None:
    assert price("audio.speak", text="é" * characters) == micros
    clone: dict[str, Any] = {**CLONE, "voiceDescription": None, "text": "é" * characters, "maxNewTokens": 2048}
    assert price("audio.speak", **clone) == micros


def test_a_bill_above_the_last_band() -> None:
    made = quote("audio.speak", prepare("audio.speak", text="a" * 200).effective_input, BOOK)
    assert [(line.label, int(line.quantity), line.amount_micros) for line in made.line_items] == [
        ("speech of at most 10 s", 1, 30_000),
        ("above 10 s", 2, 20_000),
    ]


@pytest.mark.parametrize(
    ("fields", "micros"),
    [
        ({}, 50_000),
        ({"transcript": "a"}, 30_000),
        ({"transcript": "a" * 720}, 30_000),
        ({"transcript": "a" * 721}, 50_000),
        ({"transcript": "a" * 1441}, 70_000),
        # 2161 ÷ 12 = 180.08 s: one started 60 s above 180 s
        ({"transcript": "a" * 2161}, 90_000),
        # 20 000 ÷ 12 = 1666.7 s: 1486.7 s above 180 s are 25 started minutes
        ({"transcript": "a" * 20_000}, 570_000),
        ({"sourceDurationSeconds": 180.5, "transcript": "a"}, 90_000),
        ({"sourceDurationSeconds": 3600}, 1_210_000),
    ],
)
def test_annotation(fields: dict[str, Any], micros: int) -> None:
    assert price("audio.annotation.reference", **fields) == micros


@pytest.mark.parametrize(
    ("fields", "micros"),
    [
        # 60 × 128 × $0.000008 = $0.06144; 108 × 192 × $0.000008 = $0.165888
        ({}, 61_440),
        ({"qualityPreset": "high_quality"}, 165_888),
        # 15 × 64 × $0.000008 = $0.00768, below $0.05; 240 × 320 × $0.000008 = $0.6144
        ({"durationSeconds": 15, "quality": "64k"}, 50_000),
        ({"durationSeconds": 240, "quality": "320k"}, 614_400),
        ({"qualityPreset": "high_quality", "outputFormat": "wav"}, 165_888),
        # 100.1 × 128 × $0.000008 = $0.1025024
        ({"durationSeconds": 100.1}, 102_502),
    ],
)
def test_music(fields: dict[str, Any], micros: int) -> None:
    assert price("ace.step.create", **fields) == micros


@pytest.mark.parametrize(
    ("fields", "micros"),
    [
        # 5 × $0.004 + 1024 × $0.000008 = $0.02 + $0.008192
        ({}, 28_192),
        ({"durationSeconds": 2}, 16_192),
        # 1 × $0.004 + 64 × $0.000008 = $0.004512, below $0.01
        ({"durationSeconds": 1, "maxNewTokens": 64}, 10_000),
        # 30 × $0.004 + 4096 × $0.000008 = $0.12 + $0.032768
        ({"durationSeconds": 30, "maxNewTokens": 4096}, 152_768),
        ({"durationSeconds": 1.7}, 14_992),
    ],
)
def test_sound_effects(fields: dict[str, Any], micros: int) -> None:
    assert price("moss.sound.effect", **fields) == micros


@given(characters=st.integers(40, 599), bands=BANDS, further=RATES)
def test_speech_is_the_closed_formula(characters: int, bands: list[Any], further: Any) -> None:
    rates = dict(zip(("usd_to_3_s", "usd_to_7_s", "usd_to_10_s"), bands, strict=True))
    book = book_with("audio.speak", **rates, usd_per_further_3_s=further)
    seconds = Fraction(characters, 15)
    low, middle, high = map(Fraction, bands)
    base = low if seconds <= 3 else middle if seconds <= 7 else high
    extra = Fraction(further) * max(0, ceil((seconds - 10) / 3))
    made = price("audio.speak", book, text="a" * characters)
    assert made == rounded(base + extra)
    assert made <= price("audio.speak", book, text="a" * (characters + 1))


@given(
    characters=st.integers(0, 4000),
    millis=st.none() | st.integers(1, 3_600_000),
    more=st.integers(0, 120_000),
    bands=BANDS,
    further=RATES,
)
def test_annotation_is_the_closed_formula(
    characters: int, millis: int | None, more: int, bands: list[Any], further: Any
) -> None:
    rates = dict(zip(("usd_to_60_s", "usd_to_120_s", "usd_to_180_s"), bands, strict=True))
    book = book_with("audio.annotation.reference", **rates, usd_per_further_60_s=further)
    known = ([Fraction(characters, 12)] if characters else []) + ([Fraction(millis, 1000)] if millis else [])
    seconds = max(known, default=Fraction(120))
    low, middle, high = map(Fraction, bands)
    base = low if seconds <= 60 else middle if seconds <= 120 else high
    extra = Fraction(further) * max(0, ceil((seconds - 180) / 60))
    words: dict[str, Any] = {"transcript": "a" * characters} if characters else {}
    declared: dict[str, Any] = {"sourceDurationSeconds": millis / 1000} if millis else {}
    made = price("audio.annotation.reference", book, **words, **declared)
    assert made == rounded(base + extra)
    if characters:
        assert made <= price(
            "audio.annotation.reference", book, **declared, transcript="a" * (characters + 1 + more // 60)
        )
    if millis:
        longer = min(millis + more, 3_600_000) / 1000
        assert made <= price("audio.annotation.reference", book, **words, sourceDurationSeconds=longer)


@given(
    millis=st.integers(15_000, 239_000),
    quality=st.sampled_from([64, 96, 128, 192, 256, 320]),
    rate=RATES,
    minimum=MINIMA,
)
def test_music_is_the_closed_formula(millis: int, quality: int, rate: Any, minimum: Any) -> None:
    book = book_with("ace.step.create", usd_per_second_and_kbps=rate, minimum_usd=minimum)
    exact = Fraction(millis, 1000) * quality * Fraction(rate)
    made = price("ace.step.create", book, durationSeconds=millis / 1000, quality=f"{quality}k")
    assert made == rounded(max(exact, Fraction(minimum)))
    assert made <= price("ace.step.create", book, durationSeconds=millis / 1000 + 1, quality="320k")


@given(millis=st.integers(1000, 29_000), tokens=st.integers(375, 4095), second=RATES, token=RATES, minimum=MINIMA)
def test_sound_effects_are_the_closed_formula(millis: int, tokens: int, second: Any, token: Any, minimum: Any) -> None:
    book = book_with("moss.sound.effect", usd_per_second=second, usd_per_token=token, minimum_usd=minimum)
    exact = Fraction(millis, 1000) * Fraction(second) + tokens * Fraction(token)
    made = price("moss.sound.effect", book, durationSeconds=millis / 1000, maxNewTokens=tokens)
    assert made == rounded(max(exact, Fraction(minimum)))
    assert made <= price("moss.sound.effect", book, durationSeconds=millis / 1000 + 1, maxNewTokens=tokens + 1)
