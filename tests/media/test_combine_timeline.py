from __future__ import annotations

from array import array
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.arithmetic import overlap_seconds
from media.clip import SAMPLE_RATE, sound_samples
from media.combine_source import OURS, UPRIGHT, Look, Source
from media.combine_timeline import timeline
from media.errors import OverlapTooLong

RATES = [Fraction(rate) for rate in (1, 24, 25, 30, 60)] + [Fraction(rate * 1000, 1001) for rate in (24, 30, 60)]


def sources(lengths: Sequence[Fraction], rate: Fraction | None = None) -> list[Source]:
    look = Look(160, 96, "yuv420p", Fraction(1), OURS, UPRIGHT)
    return [
        Source(
            index=index,
            path=Path("clip.mp4"),
            demuxer="mov",
            codec="h264",
            extradata=b"",
            look=look,
            has_sound=True,
            has_alpha=False,
            is_deep=False,
            time_base=Fraction(1, 90_000),
            start=Fraction(0),
            length=length,
            pts=array("q"),
            keys=bytearray(),
            frames=0,
            trimmed=False,
            rate=rate,
            mean_rate=rate or Fraction(25),
        )
        for index, length in enumerate(lengths)
    ]


@given(
    st.lists(st.fractions(Fraction(1, 100), 20, max_denominator=90_000), min_size=1, max_size=50),
    st.fractions(0, Fraction(1, 101), max_denominator=1001),
    st.sampled_from(RATES),
)
def test_it_has_no_holes_and_never_drifts(lengths: list[Fraction], cut: Fraction, fps: Fraction) -> None:
    parts = timeline(sources(lengths), cut, fps)
    begins = Fraction(0)
    assert parts[0].first_slot == parts[0].first_sample == 0
    for before, after in pairwise(parts):
        assert (before.end_slot, before.end_sample) == (after.first_slot, after.first_sample)
    for part, length in zip(parts, lengths, strict=True):
        assert part.begins == begins
        assert abs(part.first_slot / fps - begins) <= 1 / (2 * fps)
        assert part.slots >= 0
        assert part.end_sample >= part.first_sample
        for slot in (part.first_slot, part.end_slot - 1) if part.slots else ():
            assert part.cut <= part.middle(slot, fps) <= part.cut + length + 1 / fps
        begins += length - part.cut
        if part is parts[0]:
            begins = length
    assert parts[-1].end_sample == sound_samples(parts[-1].end_slot, fps)
    assert abs(parts[-1].end_slot - max(begins * fps, Fraction(1, 2))) <= Fraction(1, 2)


@given(
    st.lists(st.integers(20, 300), min_size=1, max_size=50),
    st.integers(0, 19),
    st.sampled_from(RATES),
    st.sampled_from(RATES),
)
def test_at_the_result_s_own_rate_frames_go_over_one_to_one(
    frames: list[int], overlap: int, fps: Fraction, overlap_fps: Fraction
) -> None:
    cut = overlap / overlap_fps
    if cut * fps >= 20:
        return
    for part, count in zip(timeline(sources([n / fps for n in frames], fps), cut, fps), frames, strict=True):
        shown = [part.frame_at(slot, fps) for slot in range(part.first_slot, part.end_slot)]
        assert shown == [*range(count - len(shown), count)]
        assert abs(count - len(shown) - part.cut * fps) <= 1
        if part.cut * fps == int(part.cut * fps):
            assert count - len(shown) == part.cut * fps


def test_the_overlap_is_that_of_the_prices_and_prompts() -> None:
    first, second = timeline(sources([Fraction(2), Fraction(2)]), overlap_seconds(3, 25), Fraction(60))
    assert (first.end_sample, second.cut * SAMPLE_RATE) == (96_000, Fraction(5760))
    assert (second.first_slot, second.end_slot, second.frame_at(120, Fraction(60))) == (120, 233, 7)


@pytest.mark.parametrize("length", [Fraction(3, 25), Fraction(1, 25)])
def test_nothing_is_left_of_a_clip_that_is_no_longer_than_the_cut(length: Fraction) -> None:
    with pytest.raises(OverlapTooLong, match=r"^videoUrls\[1\]: the clip lasts"):
        timeline(sources([Fraction(2), length]), Fraction(3, 25), Fraction(25))
    assert timeline(sources([length, Fraction(2)]), Fraction(3, 25), Fraction(25))[0].slots == length * 25
