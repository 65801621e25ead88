"""The frames of a clip one after another, drawn when they are asked for, never more than two of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.rife_cuts import is_cut, small

if TYPE_CHECKING:
    import numpy.typing as npt

    from media.clip import Clip


@dataclass(eq=False)
class Frame:
    """Frame `number` of a clip, I420 as in `Clip`, and what was made of it so far."""

    number: int
    planes: npt.NDArray[np.uint8]
    prepared: Any = None
    """What the network makes of it once for all its uses; None before the first."""
    _small: npt.NDArray[np.float32] | None = None

    def small(self) -> npt.NDArray[np.float32]:
        """Its luma, for `is_cut`."""
        if self._small is None:
            self._small = small(self.planes[: len(self.planes) * 2 // 3])
        return self._small


class Frames:
    """The frames of `clip`, in order."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._chunks = iter(clip.chunks)
        self._chunk: npt.NDArray[np.uint8] = np.empty((0, clip.height * 3 // 2, clip.width), np.uint8)
        self._used = 0
        self._drawn = 0
        self._held: list[Frame] = []

    def at(self, number: int) -> Frame:
        """Frame `number`: of those drawn so far only the last two asked for, or any later one.

        Raises:
            ValueError: the clip ends before it, or a chunk is not of the clip's form.
            LookupError: it was asked for too late.
        """
        while self._drawn <= number:
            planes = self._next()
            if self._drawn == number:
                # A copy, so that the chunk goes when its last frame was drawn.
                self._held = [*self._held[-1:], Frame(number, planes.copy())]
            self._drawn += 1
        for frame in self._held:
            if frame.number == number:
                return frame
        raise LookupError(f"frame {number} is gone: {self._drawn} were drawn")

    def _next(self) -> npt.NDArray[np.uint8]:
        while self._used == len(self._chunk):
            chunk = next(self._chunks, None)
            if chunk is None:
                raise ValueError(f"the clip ends after {self._drawn} frames; it promised {self._clip.frames}")
            self._chunk, self._used = self._checked(chunk), 0
        planes: npt.NDArray[np.uint8] = self._chunk[self._used]
        self._used += 1
        return planes

    def _checked(self, chunk: Any) -> npt.NDArray[np.uint8]:
        form = (self._clip.height * 3 // 2, self._clip.width)
        if not isinstance(chunk, np.ndarray) or chunk.dtype != np.uint8 or chunk.ndim != 3 or chunk.shape[1:] != form:
            told = f"{getattr(chunk, 'dtype', type(chunk).__name__)} of shape {getattr(chunk, 'shape', None)}"
            raise ValueError(f"a chunk of a clip is uint8 of shape (n, {form[0]}, {form[1]}), not {told}")
        return chunk


def same_shot(one: Frame, two: Frame) -> bool:
    """Whether there is something between two frames in a row."""
    return not is_cut(one.small(), two.small())
