"""What a clip is on its way: chunks of planar frames, and sound. Nothing holds a whole clip of frames at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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


class Miscounted(Exception):
    """A clip drew another number of frames than it said."""


def counted(clip: Clip) -> Iterator[npt.NDArray[np.uint8]]:
    """The chunks of `clip`.

    Raises:
        Miscounted: after the last, when they were not `clip.frames` frames.
    """
    drawn = 0
    for chunk in clip.chunks:
        drawn += len(chunk)
        yield chunk
    if drawn != clip.frames:
        raise Miscounted(f"{drawn} frames were drawn of a clip of {clip.frames}")


def lasting(clip: Clip, frames: int) -> Clip:
    """`clip` with just so many frames and as much sound: its end is cut, or its last frame is held and silence follows.

    Raises:
        ValueError: `frames` is not positive.
    """
    if frames < 1:
        raise ValueError(f"a clip has at least one frame, not {frames}")
    sound = None if clip.sound is None else fitted(clip.sound, sound_samples(frames, clip.fps))
    return replace(clip, frames=frames, chunks=_exactly(clip, frames), sound=sound)


def fitted(sound: npt.NDArray[np.float32], samples: int) -> npt.NDArray[np.float32]:
    """`sound`, shape (channels, any), cut to so many samples, or followed by silence up to them."""
    import numpy as np

    kept = sound[:, :samples]
    return np.pad(kept, ((0, 0), (0, samples - kept.shape[1])))


def _exactly(clip: Clip, frames: int) -> Iterator[npt.NDArray[np.uint8]]:
    left, last = frames, None
    for chunk in counted(clip) if frames >= clip.frames else clip.chunks:
        taken = chunk[:left]
        left -= len(taken)
        last = taken[-1:]
        yield taken
        if not left:
            return
    if last is None:
        raise Miscounted("no frame was drawn")
    while left:
        held = last.repeat(min(left, CHUNK_FRAMES), axis=0)
        left -= len(held)
        yield held
