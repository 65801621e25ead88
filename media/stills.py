"""Single pictures out of clips: posters and thumbnails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from media import image
from media.frames import frame_of
from media.preview import Preview, preview

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Poster:
    """A frame as a file of `width` x `height` pixels, and its `preview`: a thumbnail (WebP) and a blurhash."""

    content: bytes
    mime_type: str
    width: int
    height: int
    preview: Preview


def frame_rgb(chunk: Pixels, index: int) -> Pixels:
    """Frame `index` of `chunk`, uint8 (n, height * 3 / 2, width), as uint8 sRGB of shape (height, width, 3).

    Raises:
        IndexError: the chunk has no such frame.
    """
    import numpy as np
    from av.video.reformatter import Interpolation

    exactly = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    frame = frame_of(chunk[index])
    rgb = frame.reformat(format="rgb24", interpolation=exactly, dst_color_range="JPEG", threads=1)
    return rgb.to_ndarray().astype(np.uint8, copy=False)


def poster(
    chunk: Pixels,
    size: tuple[int, int],
    *,
    index: int = 0,
    format: image.Format = "webp",  # noqa: A002
    xmp: bytes | None = None,
) -> Poster:
    """Frame `index` of `chunk` as a picture of `size` (width, height); `xmp` is a packet of metadata to carry.

    Raises:
        IndexError: the chunk has no such frame.
        ValueError: the size or the format cannot be.
    """
    pixels = frame_rgb(chunk, index)
    content = image.encode(pixels, format, size=size, xmp=xmp)
    return Poster(content, image.MIME_TYPES[format], *size, preview(pixels, size))
