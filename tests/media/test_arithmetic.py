from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media import arithmetic as a


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"),
    [
        (6, 30, 185),
        (6, 25, 153),
        (1, 8, 9),
        (20, 30, 601),
        (0.1, 30, 9),
        (5.1, 30, 153),
        (5.067, 30, 153),
        (0.01, 8, 1),
    ],
)
def test_seconds_go_up_to_a_clip_length(seconds: float, fps: int, frames: int) -> None:
    assert a.frames_for(seconds, fps) == frames


@pytest.mark.parametrize(
    ("frames", "around"), [(250, (249, 257)), (249, (249, 249)), (1, (1, 1)), (8, (1, 9)), (256, (249, 257))]
)
def test_the_clip_lengths_around(frames: int, around: tuple[int, int]) -> None:
    assert a.clip_lengths_around(frames) == around
    assert all(map(a.is_clip_length, around))


@pytest.mark.parametrize(
    ("frames", "sampled", "interpolated", "made"),
    [(185, 30, 60, 369), (257, 25, 60, 615), (257, 25, 0, 257), (9, 8, 60, 61), (9, 16, 31, 17), (17, 30, 30, 17)],
)
def test_interpolated_frames(frames: int, sampled: int, interpolated: int, made: int) -> None:
    assert a.interpolated_frames(frames, sampled, interpolated) == made
    assert a.delivered_frames(frames, sampled, interpolated) == made


def test_a_clip_asked_for_in_seconds_is_trimmed_to_them() -> None:
    assert a.delivered_frames(185, 30, 60, 6) == 360
    assert a.delivered_frames(185, 30, 0, 6) == 180
    assert a.delivered_frames(153, 25, 60, 6) == 360
    assert a.delivered_frames(9, 8, 0, 0.01) == 1
    assert a.interpolated_frames(17, 17, 43) == 41
    assert a.delivered_frames(17, 17, 43, 1) == 43


@given(seconds=st.integers(1000, 20_000).map(lambda n: n / 1000), fps=st.integers(8, 30), out=st.integers(30, 60))
def test_a_trimmed_clip_lasts_its_seconds_and_holds_its_last_frame_but_briefly(
    seconds: float, fps: int, out: int
) -> None:
    frames = a.frames_for(seconds, fps)
    assert a.is_clip_length(frames)
    assert 0 <= frames - ceil(a.exact(seconds) * fps) < 8
    for rate in (0, out):
        delivered = a.delivered_frames(frames, fps, rate, seconds)
        assert abs(delivered - a.exact(seconds) * (rate or fps)) <= Fraction(1, 2)
        assert delivered - a.interpolated_frames(frames, fps, rate) <= Fraction(rate, fps)


@pytest.mark.parametrize(("overlap", "prefix"), [(0, 0), (1, 1), (3, 1), (8, 1), (9, 9), (16, 9), (17, 17), (33, 33)])
def test_the_longest_prefix_that_enters_as_latents(overlap: int, prefix: int) -> None:
    assert a.latent_prefix(overlap) == prefix


def test_overlaps_in_seconds() -> None:
    assert a.overlap_seconds(3, 60) == Fraction(1, 20)
    assert a.overlap_seconds(3, 25) == Fraction(3, 25)
    assert a.overlap_seconds(3, 29.97) == Fraction(3003, 30000)
    assert a.overlap_seconds(9, Fraction(25)) == Fraction(9, 25)
    assert a.overlap_seconds(0, 30) == 0


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ((2080, 2048), (2048, 2016)),
        ((4096, 4096), (2048, 2048)),
        ((4096, 2304), (2720, 1536)),
        ((16384, 288), (15424, 256)),
        ((288, 16384), (256, 15424)),
    ],
)
def test_a_canvas_that_is_too_large_has_a_largest_one_like_it(asked: tuple[int, int], fits: tuple[int, int]) -> None:
    assert a.fitting_canvas(*asked, 256) == fits


@given(width=st.integers(256, 16_384), height=st.integers(256, 16_384))
def test_a_fitting_canvas_fits(width: int, height: int) -> None:
    sides = a.fitting_canvas(width, height, 256)
    assert all(side % a.SIDE_STEP == 0 and side >= 256 for side in sides)
    assert sides[0] * sides[1] <= a.MAX_PIXELS
    assert a.fitting_canvas(height, width, 256) == sides[::-1]


@pytest.mark.parametrize(
    ("written", "meant"),
    [(25, Fraction(25)), (29.97, Fraction(30000, 1001)), (23.976, Fraction(24000, 1001)), (12.5, Fraction(25, 2))],
)
def test_frame_rates(written: float, meant: Fraction) -> None:
    assert a.frame_rate(written) == meant


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ((1024, 1024), (1024, 1024)),
        ((1000, 750), (992, 736)),
        ((256, 256), (512, 512)),
        ((1, 1), (512, 512)),
        ((4096, 4096), (1440, 1440)),
        ((6000, 4000), (1760, 1152)),
        ((4000, 100), (2880, 704)),
        ((100, 4000), (704, 2880)),
        ((40_000_000, 1), (2880, 704)),
        ((512, 512), (512, 512)),
    ],
)
def test_an_edited_picture_follows_its_source(source: tuple[int, int], made: tuple[int, int]) -> None:
    assert a.edit_canvas(*source) == made


@given(width=st.integers(1, 40_000), height=st.integers(1, 40_000))
def test_an_edited_picture_is_always_a_canvas(width: int, height: int) -> None:
    sides = a.edit_canvas(width, height)
    assert all(side % a.SIDE_STEP == 0 and side >= 224 for side in sides)
    assert sides[0] * sides[1] <= a.EDIT_MAX_PIXELS
    assert a.edit_canvas(height, width) == sides[::-1]


def test_speech_and_lyrics() -> None:
    assert a.speech_seconds("x" * 45) == 3
    assert a.speech_seconds("🦊é" * 15) == 2
    assert a.sung_text("[Intro]\nNeon  rain\n\n[Verse 2]\ton the avenue[x") == "Neon rain on the avenue[x"
    assert a.lyric_seconds("[Intro]\n" + "ab c " * 12) == Fraction(59, 12)
    assert a.lyric_seconds("[Intro] [Outro]") == 0


@pytest.mark.parametrize(
    ("seconds", "tokens"), [(30, 375), (2, 25), (0.01, 1), (40, 500), (2.4, 30), (Fraction(65, 15), 55)]
)
def test_audio_tokens(seconds: float, tokens: int) -> None:
    assert a.tokens_for(seconds) == tokens


@pytest.mark.parametrize(
    ("seconds", "top"),
    [(0, 60), (60, 60), (60.001, 120), (180, 180), (Fraction(2161, 12), 240), (240, 240), (241, 300), (3600, 3600)],
)
def test_bands(seconds: float, top: int) -> None:
    assert a.band(seconds, (60, 120, 180), 60) == top


def test_hostile_transcripts_take_linear_time() -> None:
    assert a.sung_text("[" * 200_000)[:3] == "[[["
    assert a.lyric_seconds("[" * 20_000 + "]" * 20_000) > 0


def test_what_was_written_is_what_counts() -> None:
    assert a.exact(0.1) == Fraction(1, 10)
    assert a.exact(1e-06) == Fraction(1, 1_000_000)
    assert a.exact(6) == 6
