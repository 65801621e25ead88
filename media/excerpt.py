"""Frames of a file that is there: its first one, and the last ones as a continuation needs them."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from media.errors import InvalidMedia
from media.frames import planes_into
from media.image import lossless
from media.kinds import MAX_BYTES
from media.opening import opened
from media.stills import frame_rgb

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def first_frame(path: Path) -> npt.NDArray[np.uint8]:
    """The first frame of a file of ours, uint8 I420 of shape (1, height * 3 / 2, width).

    Raises:
        MediaError: the file is no video that can be read.
    """
    import numpy as np

    with opened(path, "video", path.stat().st_size) as (container, _):
        for frame in container.decode(video=0):
            planes = np.empty((1, frame.height * 3 // 2, frame.width), np.uint8)
            planes_into(frame.reformat(format="yuv420p"), planes[0])
            return planes
    raise InvalidMedia("The video has no frame.")


def last_frames(path: Path, count: int, fps: Fraction) -> list[bytes]:
    """The last `count` frames of a clip at `fps` as lossless WebP, oldest first: the last one is the clip's own last.

    Each of the others is the one nearest to its moment, `1 / fps` seconds before the next. Frames are taken as they are
    stored: a clip that is to be turned for display is none of ours. Decoded frames are held for twice that time.

    Raises:
        MediaError: the file is no video that can be read, or is shorter than that.
    """
    import numpy as np

    span = (count - 1) / fps
    held: deque[tuple[Fraction, npt.NDArray[np.uint8]]] = deque()
    with opened(path, "video", MAX_BYTES["video"]) as (container, _):
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        end = container.duration or 0
        # A key frame at or before the span, with a second to spare; whatever comes first is decoded and dropped.
        container.seek(max(0, end - round((span + 2) * 1_000_000)), backward=True)
        for frame in container.decode(stream):
            if frame.pts is None or frame.time_base is None:
                continue
            planes = np.empty((1, frame.height * 3 // 2, frame.width), np.uint8)
            planes_into(frame.reformat(format="yuv420p"), planes[0])
            held.append((frame.pts * Fraction(frame.time_base), planes))
            while len(held) > 1 and held[-1][0] - held[1][0] >= span:
                held.popleft()
    if not held:
        raise InvalidMedia("The video has no frame.")
    last = held[-1][0]
    if last - held[0][0] + Fraction(1, 1000) < span - 1 / (2 * fps):
        raise InvalidMedia(f"The clip is shorter than {count} frames at {float(fps):g} a second; take fewer.")
    moments = [last - (count - 1 - index) / fps for index in range(count)]
    nearest = (min(held, key=lambda each: abs(each[0] - moment)) for moment in moments)
    return [lossless(frame_rgb(planes, 0)) for _, planes in nearest]
