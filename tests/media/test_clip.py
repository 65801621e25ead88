"""Clips: counted, cut and held; their sound as long as they are."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from media.clip import Clip, Miscounted, counted, fitted, lasting, sound_samples

Frames = npt.NDArray[np.uint8]


def numbered(*sizes: int, frames: int | None = None, drawn: list[int] | None = None) -> Clip:
    """Frames of 4x4 pixels whose luma is their number, in chunks of `sizes`; `drawn` hears of each chunk."""

    def chunks() -> Iterator[Frames]:
        at = 0
        for size in sizes:
            if drawn is not None:
                drawn.append(size)
            yield np.arange(at, at + size, dtype=np.uint8)[:, None, None].repeat(6, 1).repeat(4, 2)
            at += size

    total = sum(sizes)
    sound = np.arange(sound_samples(total, Fraction(25)), dtype=np.float32)[None].repeat(2, 0)
    return Clip(4, 4, Fraction(25), total if frames is None else frames, chunks(), sound, {})


def numbers(clip: Clip) -> list[int]:
    return [int(frame[0, 0]) for chunk in clip.chunks for frame in chunk]


def test_counting_passes_the_chunks_on() -> None:
    assert [len(chunk) for chunk in counted(numbered(16, 3))] == [16, 3]


@pytest.mark.parametrize("said", [18, 20])
def test_another_number_than_was_said_is_an_error(said: int) -> None:
    with pytest.raises(Miscounted, match=f"19 frames were drawn of a clip of {said}"):
        list(counted(numbered(16, 3, frames=said)))


def test_the_end_is_cut_and_nothing_further_is_drawn() -> None:
    drawn: list[int] = []
    clip = lasting(numbered(16, 16, 16, drawn=drawn), 17)
    assert clip.frames == 17
    assert numbers(clip) == list(range(17))
    assert drawn == [16, 16]
    assert clip.sound is not None
    assert clip.sound.shape == (2, 17 * 1920)


def test_the_last_frame_is_held_in_chunks() -> None:
    clip = lasting(numbered(16, 3), 60)
    sizes = [len(chunk) for chunk in clip.chunks]
    assert sum(sizes) == 60
    assert max(sizes) == 16
    clip = lasting(numbered(16, 3), 60)
    assert numbers(clip) == [*range(19), *[18] * 41]
    assert clip.sound is not None
    assert clip.sound[0, 19 * 1920 :].tolist() == [0] * (41 * 1920)


def test_as_long_as_it_is_it_stays_and_is_counted() -> None:
    assert numbers(lasting(numbered(16, 3), 19)) == list(range(19))
    with pytest.raises(Miscounted):
        numbers(lasting(numbered(16, 2, frames=19), 19))


def test_a_clip_has_a_frame() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        lasting(numbered(1), 0)
    with pytest.raises(Miscounted):
        numbers(lasting(numbered(frames=3), 4))


@pytest.mark.parametrize(
    ("frames", "fps", "samples"),
    [(1, Fraction(30), 1600), (257, Fraction(25), 493_440), (100, Fraction(30000, 1001), 160_160)],
)
def test_sound_lasts_as_long_as_the_frames(frames: int, fps: Fraction, samples: int) -> None:
    assert sound_samples(frames, fps) == samples


@pytest.mark.parametrize(("length", "expected"), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (5, [1, 2, 3, 0, 0])])
def test_sound_is_cut_or_followed_by_silence(length: int, expected: list[float]) -> None:
    found = fitted(np.array([[1, 2, 3]] * 2, np.float32), length)
    assert found.tolist() == [expected, expected]
    assert found.dtype == np.float32
