"""Every frame of another rate shows its own moment, exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest

from media.arithmetic import interpolated_frames
from models.rife_timing import Timeline

FILM = Fraction(24000, 1001)
RATES: list[tuple[int | Fraction, int | Fraction]] = [
    *((25, 60), (30, 60), (24, 30), (24, 60), (30, 30), (17, 43), (1, 60)),
    *((60, 30), (60, 24), (30, 29), (FILM, 60), (FILM, FILM), (30, Fraction(60000, 1001))),
]

START = (0, Fraction(0))


@pytest.mark.parametrize(("sampled", "fps"), RATES)
@pytest.mark.parametrize("frames", [1, 2, 3, 9, 121])
class TestWhole:
    def test_each_frame_shows_its_moment(self, frames: int, sampled: int | Fraction, fps: int | Fraction) -> None:
        timeline = Timeline(frames, Fraction(sampled), Fraction(fps))
        for index in range(timeline.whole - 1):
            frame, between = timeline.at(index)
            assert (frame + between) / sampled == Fraction(index) / fps
            assert 0 <= between < 1
            assert frame + (between > 0) <= frames - 1

    def test_the_ends_are_the_clips_own(self, frames: int, sampled: int | Fraction, fps: int | Fraction) -> None:
        timeline = Timeline(frames, Fraction(sampled), Fraction(fps))
        whole = timeline.whole
        assert whole == interpolated_frames(frames, sampled, fps)
        assert timeline.at(0) == START
        if whole > 1:
            assert timeline.at(whole - 1) == (frames - 1, Fraction(0))
            off = abs(Fraction(whole - 1) / fps - Fraction(frames - 1) / sampled)
            assert off <= Fraction(1, 2) / fps
        assert timeline.at(whole + 1000) == (frames - 1, Fraction(0))


def test_where_25_becomes_60() -> None:
    timeline = Timeline(121, Fraction(25), Fraction(60))
    assert timeline.whole == 289
    assert [timeline.at(index) for index in (1, 2, 3, 12, 287, 288)] == [
        (0, Fraction(5, 12)),
        (0, Fraction(5, 6)),
        (1, Fraction(1, 4)),
        (5, Fraction(0)),
        (119, Fraction(7, 12)),
        (120, Fraction(0)),
    ]


def test_where_24_becomes_30() -> None:
    timeline = Timeline(9, Fraction(24), Fraction(30))
    assert [timeline.at(index) for index in range(timeline.whole)] == [
        (0, 0),
        (0, Fraction(4, 5)),
        (1, Fraction(3, 5)),
        (2, Fraction(2, 5)),
        (3, Fraction(1, 5)),
        *((4, 0), (4, Fraction(4, 5)), (5, Fraction(3, 5)), (6, Fraction(2, 5)), (7, Fraction(1, 5)), (8, 0)),
    ]
