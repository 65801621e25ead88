"""A decoded picture as models take it: upright, sRGB, 8 bits a channel, on white."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from PIL import ExifTags, Image, ImageCms

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels: TypeAlias = npt.NDArray[np.uint8]

MAX_PROFILE_BYTES = 4_000_000
"""Of a colour profile; those of printing presses, the largest there are, have about 2 MB."""

_STRIP_PIXELS = 1 << 18
_INVISIBLE = 2
"""Levels of 255 by which a profile may differ from sRGB and still be taken for it."""

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
_SIDEWAYS = {
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
}
_LAST_ROW_FIRST = {
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
}


@dataclass(frozen=True)
class Change:
    """Something about a picture that did not survive: what it was, what it became, and why. Told as an adjustment."""

    from_: str
    to: str
    reason: str


def normalised(image: Image.Image) -> tuple[Pixels, tuple[Change, ...]]:
    """The loaded `image` as uint8 sRGB of shape (height, width, 3), and what was lost.

    Turned upright by its EXIF orientation. Converted to sRGB by its colour profile; EXIF or a profile that cannot be read
    counts as absent, as in browsers. Of 16 bits a channel, the upper 8 are kept. Transparent pixels are laid on white,
    in sRGB as browsers do. Works in strips: beside `image` and the result, a few megabytes are used.
    """
    import numpy as np

    turn = _turn(image)
    colour, profile_used = _colour_conversion(image)
    width, height = image.size
    pixels = np.empty((width, height, 3) if turn in _SIDEWAYS else (height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    transparent = False
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = _manageable(image.crop((0, top, width, bottom)))
        flat = colour(strip)
        alpha = _alpha(strip)
        if alpha is not None:
            transparent = True
            flat = Image.composite(flat, Image.new("RGB", flat.size, "white"), alpha)
        if turn is not None:
            flat = flat.transpose(turn)
        place = slice(height - bottom, height - top) if turn in _LAST_ROW_FIRST else slice(top, bottom)
        pixels[(slice(None), place) if turn in _SIDEWAYS else place] = np.asarray(flat)
    changes = []
    if transparent:
        changes.append(Change("transparent", "laid on white", "models take no transparency"))
    if not profile_used:
        changes.append(Change("a colour profile", "sRGB", "the colour profile cannot be used"))
    return pixels, tuple(changes)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, OSError, ValueError, LookupError, TypeError, struct.error):
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _manageable(strip: Image.Image) -> Image.Image:
    """A palette with transparency as RGBA, and grey of 16 bits as grey of 8.

    Pillow's own conversion of the latter clips at 255 instead of scaling, and drops transparency.
    """
    import numpy as np

    if strip.mode == "P" and strip.has_transparency_data:
        return strip.convert("RGBA")
    if strip.mode != "I;16":
        return strip
    levels = np.asarray(strip)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    key = strip.info.get("transparency")
    if key is not None:
        grey.putalpha(Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
    return grey


def _alpha(strip: Image.Image) -> Image.Image | None:
    """The opacity of each pixel; None when all of them are opaque."""
    if not strip.has_transparency_data:
        return None
    alpha = (strip if "A" in strip.mode else strip.convert("RGBA")).getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _colour_conversion(image: Image.Image) -> tuple[Callable[[Image.Image], Image.Image], bool]:
    """What makes an sRGB picture of a strip of `image`, and whether the picture's profile, if any, was heeded."""
    mode = {"1": "L", "L": "L", "LA": "L", "I;16": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    profile = image.info.get("icc_profile")
    transform = _transform(profile, mode) if profile else None
    heeded = not profile or transform is not None
    if transform is not None and _changes_nothing(transform, mode):
        transform = None

    def convert(strip: Image.Image) -> Image.Image:
        plain = strip if strip.mode == mode else strip.convert(mode)
        if transform is not None:
            return transform.apply(plain)
        return plain if mode == "RGB" else plain.convert("RGB")

    return convert, heeded


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether the profile is sRGB under some name, as most are: a sample of colours shows it, and saves converting all."""
    import numpy as np

    if mode == "CMYK":
        return False
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    sample = Image.fromarray(cube if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    before, after = (np.asarray(each, np.int16) for each in (sample.convert("RGB"), transform.apply(sample)))
    return bool(np.abs(after - before).max() <= _INVISIBLE)
