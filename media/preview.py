"""What stands for a picture before it is there: a thumbnail and a blurhash."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import blurhash
from PIL import Image

from media.image import scaled

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LONGEST_SIDE = 256
"""Pixels of a thumbnail."""
MIME_TYPE = "image/webp"

_HASHED_SIDE = 32


@dataclass(frozen=True)
class Preview:
    """A thumbnail, WebP without metadata, of `width` x `height` pixels, and the blurhash of the same picture."""

    content: bytes
    width: int
    height: int
    blurhash: str


def preview(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> Preview:
    """The preview of `pixels`, uint8 sRGB of shape (height, width, 3), as they look at `size` (width, height).

    The thumbnail's longest side is 256 pixels, or that of `size` if it is shorter. The blurhash has 4 components along the
    longer side and 3 along the other. The same arguments give the same preview.

    Raises:
        ValueError: the array or the size has no such shape.
    """
    small = scaled(pixels, _within(size, LONGEST_SIDE))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80, method=4)
    tiny = small.resize(_within(small.size, _HASHED_SIDE), Image.Resampling.BOX)
    across, down = (4, 3) if tiny.width >= tiny.height else (3, 4)
    levels = [[tiny.getpixel((x, y)) for x in range(tiny.width)] for y in range(tiny.height)]
    return Preview(file.getvalue(), small.width, small.height, blurhash.encode(levels, across, down))


def _within(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """`size` scaled down until no side is longer than `longest`, each at least 1."""
    if min(size) < 1:
        raise ValueError(f"size {size}: both sides must be positive")
    share = min(1.0, longest / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))
