"""Frames between chunks and PyAV: planar YUV 4:2:0 with both sides even, BT.709, limited range (see media.clip)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import av
    import numpy as np
    import numpy.typing as npt

    Planes: TypeAlias = npt.NDArray[np.uint8]

BT709 = 1
"""As primaries, transfer and matrix (ITU-T H.273, tables 2 to 4)."""
LIMITED = 1
"""FFmpeg's AVCOL_RANGE_MPEG: video_full_range_flag 0 of the same standard."""

MAX_THREADS = 8
"""Of an encoder or a decoder. Each holds frames of its own: of 1920x1088, two take 0.27 GB in all, 16 0.6, 64 1.6."""


def default_threads() -> int:
    """The threads of an encoder or a decoder: the process's cores, and no more than `MAX_THREADS`."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0)))


def check_canvas(width: int, height: int) -> None:
    """Whether frames can have so many pixels.

    Raises:
        ValueError: a side is odd or not positive.
    """
    if width < 2 or height < 2 or width % 2 or height % 2:
        raise ValueError(f"{width}x{height}: both sides of a 4:2:0 frame must be even and positive")


def check_chunk(chunk: Planes, width: int, height: int) -> None:
    """Whether `chunk` holds frames of `width` x `height` pixels.

    Raises:
        ValueError: it is of another type, size or shape.
    """
    if chunk.dtype != "uint8" or chunk.ndim != 3 or chunk.shape[1:] != (height * 3 // 2, width):
        expected = f"uint8 of shape (n, {height * 3 // 2}, {width})"
        raise ValueError(f"the chunk is {chunk.dtype} of shape {chunk.shape}: {expected} needed")


def frame_of(planes: Planes) -> av.VideoFrame:
    """A copy of `planes`, uint8 (height * 3 / 2, width), as a frame that says what its colours are."""
    import av
    import numpy as np

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv420p")
    frame.color_primaries = frame.color_trc = frame.colorspace = BT709
    frame.color_range = LIMITED
    return frame


def planes_into(frame: av.VideoFrame, target: Planes) -> None:
    """Copy a yuv420p `frame` into `target`, uint8 (height * 3 / 2, width), contiguous."""
    import numpy as np

    flat, at = target.reshape(-1), 0
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        flat[at : at + rows.size].reshape(rows.shape)[:] = rows
        at += rows.size
