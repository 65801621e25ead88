"""What a clip is on its way: chunks of planar frames, and sound. Nothing holds a whole clip of frames at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from core.money import round_half_up

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CHUNK_FRAMES = 16
"""The most frames in one chunk."""
SAMPLE_RATE = 48_000
"""Of all sound between steps, and of every file with a picture."""


@dataclass(frozen=True, eq=False)
class Clip:
    """`frames` frames of `width` x `height` pixels (both even) at `fps`, and their sound.

    `chunks` is drawn once: uint8 arrays of shape (n, height * 3 / 2, width) with 1 to 16 frames each, planar YUV 4:2:0
    (I420: the luma plane, then U, then V), BT.709, limited range. Each is made when it is asked for.
    `sound` is float32 in -1…1 of shape (2, samples) at 48 kHz, as long as `sound_samples` says; None is silence. `details`
    is JSON for the job's record, complete once the last chunk was drawn.
    """

    width: int
    height: int
    fps: Fraction
    frames: int
    chunks: Iterator[npt.NDArray[np.uint8]]
    sound: npt.NDArray[np.float32] | None
    details: dict[str, Any]


def sound_samples(frames: int, fps: Fraction) -> int:
    """Samples of sound that go with so many frames."""
    return round_half_up(frames / fps * SAMPLE_RATE)
