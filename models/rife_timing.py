"""Which moment of a clip each frame of another rate shows: exact fractions, so that picture and sound never part."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from media.arithmetic import interpolated_frames


@dataclass(frozen=True)
class Timeline:
    """`frames` frames at `sampled_fps`, shown at `fps`."""

    frames: int
    sampled_fps: Fraction
    fps: Fraction

    @property
    def whole(self) -> int:
        """Frames that show the clip from its first frame to its last."""
        return interpolated_frames(self.frames, self.sampled_fps, self.fps)

    def at(self, index: int) -> tuple[int, Fraction]:
        """What frame `index` (from 0) shows: a frame of the clip, and how far towards the next one, in 0…1 without 1.

        It is the moment `index` ÷ `fps`. Only the last frame of the whole is the clip's own last one, which lies half an
        interval of `fps` away at most; frames beyond hold it.
        """
        if index and index >= self.whole - 1:
            return self.frames - 1, Fraction(0)
        position = index * self.sampled_fps / self.fps
        frame = int(position)
        return frame, position - frame
