from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from media.image import Format
from media.stills import frame_rgb, poster
from tests.media.clips import chunk

# R'G'B' with the Y'CbCr that ITU-R BT.709-6 gives them in limited range, rounded.
COLOURS = {
    (255, 255, 255): (235, 128, 128),
    (0, 0, 0): (16, 128, 128),
    (255, 0, 0): (63, 102, 240),
    (0, 255, 0): (173, 42, 26),
    (0, 0, 255): (32, 240, 118),
    (128, 128, 128): (126, 128, 128),
}


@pytest.mark.parametrize(("rgb", "yuv"), COLOURS.items())
def test_colours_are_those_of_bt709(rgb: tuple[int, int, int], yuv: tuple[int, int, int]) -> None:
    flat = np.empty((1, 48, 64), np.uint8)
    flat[:, :32], flat[:, 32:40], flat[:, 40:] = yuv
    pixels = frame_rgb(flat, 0)
    assert pixels.shape == (32, 64, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - rgb).max() <= 2


def test_the_frame_is_the_one_asked_for() -> None:
    frames = np.repeat(np.arange(16, 208, 12, dtype=np.uint8)[:, None, None], 48, 1).repeat(64, 2)
    frames[:, 32:] = 128
    levels = [frame_rgb(frames, index).mean() for index in range(len(frames))]
    assert levels == sorted(set(levels))
    with pytest.raises(IndexError):
        frame_rgb(frames, len(frames))


@pytest.mark.parametrize(("kind", "mime_type"), [("webp", "image/webp"), ("jpg", "image/jpeg"), ("png", "image/png")])
def test_a_poster_has_the_promised_canvas(kind: Format, mime_type: str) -> None:
    made = poster(chunk([3, 5], 256, 192), (1280, 704), index=1, format=kind)
    with Image.open(io.BytesIO(made.content)) as image:
        assert image.size == (made.width, made.height) == (1280, 704)
        assert image.get_format_mimetype() == made.mime_type == mime_type
    assert (made.preview.width, made.preview.height) == (256, 141)
    assert len(made.preview.blurhash) == 28


def test_the_same_frame_gives_the_same_poster() -> None:
    assert poster(chunk([3]), (128, 96)) == poster(chunk([2, 3]), (128, 96), index=1)
