"""Pictures: pixels to bytes for what we made, bytes to pixels for what callers send."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from media import kinds
from media.errors import InvalidMedia, UnsupportedMedia
from media.normalise import Change, normalised

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Format = Literal["webp", "png", "jpg"]

MIME_TYPES: Mapping[Format, str] = {"webp": "image/webp", "png": "image/png", "jpg": "image/jpeg"}

MAX_BYTES = kinds.MAX_BYTES["image"]
MAX_PIXELS = 40_000_000
MAX_SIDE = 65_535
"""Pixels; what a JPEG can have at most."""
MAX_SCANS = 100
"""Of a progressive JPEG; encoders make about ten."""
MAX_WEBP_SIDE = 16_383
"""Pixels; the VP8 frame header holds 14 bits per side (RFC 6386, section 9.1)."""

_MAX_PROFILES = 8
_PILLOW_NAMES: Mapping[Format, str] = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG"}
# Measured in docs/decisions/0030-how-pictures-are-encoded.md.
_SAVE_OPTIONS: Mapping[Format, Mapping[str, Any]] = {
    "webp": {"quality": 90, "method": 2},
    "png": {"compress_level": 3},
    "jpg": {"quality": 92, "subsampling": 0},
}
_XMP_IN_PNG = "XML:com.adobe.xmp"
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
"""A JPEG's marker (ITU-T T.81, table B.1) that has a length behind it; stuffed bytes and restarts have none."""
_PNG_DEPTH = 24
"""Where a PNG tells its bits a channel: the first chunk is IHDR (PNG, third edition, 11.2.1)."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: `pixels` is uint8 sRGB of shape (height, width, 3), `format` what the bytes were.

    `frames` is 1, or how many an animation had; `changes` tell what was lost on the way, each an adjustment at run time.
    """

    pixels: npt.NDArray[np.uint8]
    format: Format
    frames: int = 1
    changes: tuple[Change, ...] = ()


def encode(
    pixels: npt.NDArray[np.uint8],
    format: Format,  # noqa: A002
    *,
    size: tuple[int, int] | None = None,
    xmp: bytes | None = None,
) -> bytes:
    """`pixels`, uint8 sRGB of shape (height, width, 3), as a file; resized to `size` (width, height) if that is given.

    WebP has quality 90 and method 2, JPEG quality 92 without chroma subsampling, PNG is lossless. Each says that it is
    sRGB: WebP and JPEG by a profile of 588 bytes, PNG by its own chunk. `xmp` is a packet of metadata to carry. The same
    arguments give the same bytes.

    Raises:
        ValueError: the array or the size has no such shape, the format is unknown, or a side is too long for WebP.
    """
    if format not in MIME_TYPES:
        raise ValueError(f"format {format!r}: use one of {', '.join(MIME_TYPES)}")
    image = scaled(pixels, size)
    if format == "webp" and max(image.size) > MAX_WEBP_SIDE:
        raise ValueError(f"{image.width}x{image.height}: WebP holds at most {MAX_WEBP_SIDE} pixels a side")
    file = io.BytesIO()
    image.save(file, _PILLOW_NAMES[format], **_SAVE_OPTIONS[format], **_tags(format, xmp))
    return file.getvalue()


def lossless(pixels: npt.NDArray[np.uint8]) -> bytes:
    """`pixels`, uint8 sRGB of shape (height, width, 3), as a WebP that gives back just these.

    Raises:
        ValueError: the array has no such shape.
    """
    file = io.BytesIO()
    scaled(pixels).save(file, "WEBP", lossless=True, quality=50, method=2)
    return file.getvalue()


def scaled(pixels: npt.NDArray[np.uint8], size: tuple[int, int] | None = None) -> Image.Image:
    """`pixels`, uint8 sRGB of shape (height, width, 3), as an image of `size` (width, height), by default its own.

    Raises:
        ValueError: the array or the size has no such shape.
    """
    if pixels.dtype != "uint8" or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels are {pixels.dtype} of shape {pixels.shape}: uint8 of shape (height, width, 3) needed")
    image = Image.fromarray(pixels)
    if size is None or size == image.size:
        return image
    if min(size) < 1:
        raise ValueError(f"size {size}: both sides must be positive")
    return image.resize(size, Image.Resampling.LANCZOS)


def cover(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """`pixels`, uint8 of shape (height, width, 3), filling `size` (width, height): what stands out is cut evenly.

    Cut first, to the aspect of `size`, then scaled (Lanczos): no side is stretched by more than the rounding of a pixel.
    """
    import numpy as np

    image = scaled(pixels)
    if image.size == size:
        return pixels
    return np.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS))


def _tags(format: Format, xmp: bytes | None) -> dict[str, Any]:  # noqa: A002
    """What says to Pillow that a picture is sRGB, and carries `xmp`."""
    if format != "png":
        return {"icc_profile": _srgb_profile(), **({"xmp": xmp} if xmp else {})}
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"sRGB", b"\0")
    if xmp:
        chunks.add_itxt(_XMP_IN_PNG, xmp.decode())
    return {"pnginfo": chunks}


@cache
def _srgb_profile() -> bytes:
    """LittleCMS's sRGB profile without the time of its making (ICC.1:2022, 7.2.10), so that files are reproducible."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]


def sniff(data: bytes) -> Format | None:
    """The format that the first bytes of `data` declare; None when it is none of ours."""
    found = kinds.sniff(data, "image")
    return next((name for name, mime_type in MIME_TYPES.items() if mime_type == found), None)


def open_image(data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a picture that nobody has vouched for. It takes up to seconds: never call it in an event loop.

    The content decides the format, never a name. Bytes, pixels, sides and scans are counted before anything is decoded.
    What becomes of orientation, colour profile, depth and transparency stands at `media.normalise.normalised`. Of an
    animation, the first frame is taken.

    Peak memory beside `data` is 4 to 8 bytes a pixel, 10 for a progressive JPEG (12 in CMYK), 16 for a WebP:
    640 MB at the default limits.

    Raises:
        UnsupportedMedia: neither PNG, JPEG nor WebP.
        InvalidMedia: too many bytes or pixels, cut off, or broken.
        MemoryError: this process has too little memory for the picture.
    """
    found = sniff(data)
    if found is None:
        raise UnsupportedMedia("This is neither a PNG, a JPEG nor a WebP picture; convert it to one of them.")
    if len(data) > max_bytes:
        raise InvalidMedia(f"The picture has {len(data)} bytes; at most {max_bytes} are accepted.")
    _check_work(data, found)
    try:
        with _opened(data, found) as image:
            width, height = image.size
            if width * height > max_pixels or max(width, height) > MAX_SIDE:
                raise InvalidMedia(
                    f"The picture has {width}x{height} pixels; at most {max_pixels} are accepted, {MAX_SIDE} a side."
                )
            frames = 1 if found == "jpg" else getattr(image, "n_frames", 1)
            image.load()
            if found == "png":
                _scale_key(image, depth=data[_PNG_DEPTH])
            pixels, changes = normalised(image)
    except (InvalidMedia, MemoryError):
        raise
    except UnidentifiedImageError:
        raise InvalidMedia(f"The {found} picture is broken or cut off.") from None
    except Image.DecompressionBombError:
        raise InvalidMedia(f"The picture has too many pixels; at most {max_pixels} are accepted.") from None
    except Exception as error:
        # Pillow raises whatever the bytes lead it into; fuzzing finds nine classes, AssertionError among them.
        raise InvalidMedia(f"The {found} picture is broken or cut off: {error}") from error
    if frames > 1:
        first = Change(f"an animation of {frames} frames", "its first frame", "only still pictures are taken")
        changes = (first, *changes)
    return Picture(pixels, found, frames, changes)


def _opened(data: bytes, found: Format) -> Image.Image:
    with warnings.catch_warnings():
        # Our own limits are lower than the one that Pillow warns of.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data), formats=[_PILLOW_NAMES[found]])


def _check_work(data: bytes, found: Format) -> None:
    """Refuse files whose few bytes make a decoder work for hours.

    A progressive JPEG passes over every pixel once for each scan, and a scan can have 42 bytes; a PNG's colour profile
    is inflated each time one is met.

    Raises:
        InvalidMedia: more than `MAX_SCANS` scans, or than `_MAX_PROFILES` colour profiles.
    """
    if found == "jpg" and data.count(b"\xff\xda") > MAX_SCANS and _count_scans(data) > MAX_SCANS:
        raise InvalidMedia(f"The jpg picture has more than {MAX_SCANS} scans; save it as a baseline JPEG.")
    if found == "png" and data.count(b"iCCP") > _MAX_PROFILES:
        raise InvalidMedia("The png picture has many colour profiles; save it with one.")


def _count_scans(data: bytes) -> int:
    """The scans of a JPEG up to its end marker; what follows that may be anything, a phone's video too."""
    scans, at = 0, 2
    while (found := _MARKER.search(data, at)) is not None and found[1] != b"\xd9":
        scans += found[1] == b"\xda"
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans


def _scale_key(image: Image.Image, depth: int) -> None:
    """A PNG's transparent colour at 8 bits a channel, like its pixels; Pillow 13.0 leaves it at the file's depth."""
    key = image.info.get("transparency")
    if depth == 16 and image.mode == "RGB" and isinstance(key, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in key)
    elif depth < 8 and image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key * 255 // ((1 << depth) - 1)
