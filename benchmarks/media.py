"""How much longer does a safe, upright, sRGB picture take than Pillow's bare decoding?"""

from __future__ import annotations

import io
import struct
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

import killatamata
from benchmarks.measuring import SCALE, cpu_in_turns
from benchmarks.results import Result
from killatamata.embedded_postgres import EmbeddedPostgres
from media.image import open_image

SIDES = (max(64, round(4000 * SCALE)), max(48, round(3000 * SCALE)))
VERSUS = "Pillow alone: open, as an RGB array; CPU time, a photograph of 12 MP"

_PHOTOGRAPH = Path(killatamata.__file__).parent / "photographs" / "coffee.jpg"
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Display P3 in D50 (Apple's profile of that name), as s15Fixed16.
_P3 = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}


async def image_decode(_postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """Decode and normalise ÷ bare decode.

    Display P3 has no limit: the bare side leaves its colours wrong, and LittleCMS takes 8 ns a pixel to set them right.
    """
    for name, (data, limit) in _files().items():
        ours, bare = cpu_in_turns(partial(open_image, data), partial(_bare, data))
        yield Result(f"image_decode.{name}", ours * 1e3, "ms", VERSUS, bare * 1e3, "lower", limit)


def _files() -> Mapping[str, tuple[bytes, float | None]]:
    """Each file with the limit of its ratio."""
    with Image.open(_PHOTOGRAPH) as small:
        pixels = np.asarray(small.resize(SIDES, Image.Resampling.LANCZOS), np.float32)
    grain = np.random.default_rng(1).normal(0, 4, pixels.shape)
    photograph = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
    upright = Image.Exif()
    upright[0x0112] = 6
    phone = {"quality": 90, "exif": upright}
    return {
        "jpg": (_saved(photograph, "JPEG", quality=90), 1.5),
        "jpg_sideways_srgb": (_saved(photograph, "JPEG", icc_profile=_SRGB, **phone), 1.5),
        "jpg_sideways_p3": (_saved(photograph, "JPEG", icc_profile=_display_p3(), **phone), None),
        "png_rgba": (_saved(photograph.convert("RGBA"), "PNG", compress_level=3), 1.5),
        "webp": (_saved(photograph, "WEBP", quality=90, method=0), 1.5),
    }


def _bare(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _display_p3() -> bytes:
    """The sRGB profile with the primaries of Display P3, whose curve it shares."""
    profile = bytearray(_SRGB)
    for index in range(struct.unpack_from(">I", profile, 128)[0]):
        name, at = struct.unpack_from(">4sI", profile, 132 + 12 * index)
        if name in _P3:
            struct.pack_into(">3i", profile, at + 8, *(round(value * 65536) for value in _P3[name]))
    return bytes(profile)
