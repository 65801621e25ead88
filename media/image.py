"""Pictures: pixels to bytes for what we made, bytes to pixels for what callers send."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from PIL import ExifTags, Image, ImageCms

from media import kinds
from media.errors import InvalidMedia, UnsupportedMedia

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Format = Literal["webp", "png", "jpg"]

MIME_TYPES: Mapping[Format, str] = {"webp": "image/webp", "png": "image/png", "jpg": "image/jpeg"}

MAX_BYTES = kinds.MAX_BYTES["image"]
MAX_PIXELS = 40_000_000
MAX_WEBP_SIDE = 16_383
"""Pixels; the VP8 frame header holds 14 bits per side (RFC 6386, section 9.1)."""

_PILLOW_NAMES: Mapping[Format, str] = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG"}
_SAVE_OPTIONS: Mapping[Format, Mapping[str, Any]] = {
    "webp": {"quality": 90, "method": 4},
    "png": {},
    # Without chroma subsampling: it smears the coloured lettering that these models are asked for.
    "jpg": {"quality": 92, "subsampling": 0},
}
# What undoes each EXIF orientation (CIPA DC-008, tag 274); 1 is upright.
_TURNS: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: `pixels` is uint8 sRGB of shape (height, width, 3), `format` what the bytes were."""

    pixels: npt.NDArray[np.uint8]
    format: Format


def encode(pixels: npt.NDArray[np.uint8], format: Format, *, size: tuple[int, int] | None = None) -> bytes:  # noqa: A002
    """`pixels`, uint8 sRGB of shape (height, width, 3), as a file; resized to `size` (width, height) if that is given.

    WebP has quality 90 and method 4, JPEG quality 92 without chroma subsampling, PNG is lossless. No colour profile is
    embedded: untagged pictures are sRGB. The same pixels give the same bytes.

    Raises:
        ValueError: the array or the size has no such shape, the format is unknown, or a side is too long for WebP.
    """
    if format not in MIME_TYPES:
        raise ValueError(f"format {format!r}: use one of {', '.join(MIME_TYPES)}")
    if pixels.dtype != "uint8" or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels are {pixels.dtype} of shape {pixels.shape}: uint8 of shape (height, width, 3) needed")
    image = Image.fromarray(pixels)
    if size is not None and size != image.size:
        if min(size) < 1:
            raise ValueError(f"size {size}: both sides must be positive")
        image = image.resize(size, Image.Resampling.LANCZOS)
    if format == "webp" and max(image.size) > MAX_WEBP_SIDE:
        raise ValueError(f"{image.width}x{image.height}: WebP holds at most {MAX_WEBP_SIDE} pixels a side")
    file = io.BytesIO()
    image.save(file, _PILLOW_NAMES[format], **_SAVE_OPTIONS[format])
    return file.getvalue()


def sniff(data: bytes) -> Format | None:
    """The format that the first bytes of `data` declare; None when it is none of ours."""
    found = kinds.sniff(data, "image")
    return next((name for name, mime_type in MIME_TYPES.items() if mime_type == found), None)


def open_image(data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a picture that nobody has vouched for.

    The content decides the format, never a name. The size is checked before any pixel is decoded. The picture is turned
    upright by its EXIF orientation, converted to sRGB by its colour profile (EXIF or a profile that cannot be read
    counts as absent, as in browsers), reduced to 8 bits a channel, and laid on white where it is transparent. Of an
    animation, the first frame is taken. Peak memory is 12 to 25 bytes a pixel, up to 1 GB at the default limit.

    Raises:
        UnsupportedMedia: neither PNG, JPEG nor WebP.
        InvalidMedia: too many bytes or pixels, cut off, or broken.
        MemoryError: this process has too little memory for the picture.
    """
    import numpy as np

    found = sniff(data)
    if found is None:
        raise UnsupportedMedia("This is neither a PNG, a JPEG nor a WebP picture; convert it to one of them.")
    if len(data) > max_bytes:
        raise InvalidMedia(f"The picture has {len(data)} bytes; at most {max_bytes} are accepted.")
    try:
        with Image.open(io.BytesIO(data), formats=[_PILLOW_NAMES[found]]) as image:
            if image.width * image.height > max_pixels:
                raise InvalidMedia(
                    f"The picture has {image.width}x{image.height} pixels; at most {max_pixels} allowed."
                )
            image.load()
            pixels = np.asarray(_flatten(_upright(image)))
    except (InvalidMedia, MemoryError):
        raise
    except Exception as error:
        # Pillow raises whatever the bytes lead it into; fuzzing finds nine classes, AssertionError among them.
        raise InvalidMedia(f"The {found} picture is broken or cut off: {error}") from error
    return Picture(pixels, found)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, OSError, ValueError, LookupError, TypeError, struct.error):
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image) -> Image.Image:
    image = _eight_bits(image)
    colour = _srgb(image)
    if not image.has_transparency_data:
        return colour
    alpha = image.convert("RGBA").getchannel("A")
    return Image.composite(colour, Image.new("RGB", colour.size, "white"), alpha)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8; Pillow's own conversion clips at 255 instead of scaling, and drops transparency."""
    import numpy as np

    if image.mode != "I;16":
        return image
    levels = np.asarray(image)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    key = image.info.get("transparency")
    if key is not None:
        grey.putalpha(Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
    grey.info["icc_profile"] = image.info.get("icc_profile")
    return grey


def _srgb(image: Image.Image) -> Image.Image:
    grey = image.convert("L") if image.mode in {"1", "LA"} else image
    colour = grey if grey.mode in {"L", "CMYK"} else grey.convert("RGB")
    profile = image.info.get("icc_profile")
    converted = _by_profile(colour, profile) if profile else None
    return converted or colour.convert("RGB")


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    try:
        return ImageCms.profileToProfile(image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
