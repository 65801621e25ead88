from __future__ import annotations

import io

import blurhash
import numpy as np
import pytest
from PIL import Image

from media.preview import preview
from tests.media.pictures import gradient


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 1024), (256, 256)),
        ((2048, 1024), (256, 128)),
        ((704, 1280), (141, 256)),
        ((64, 48), (64, 48)),
        ((16_000, 10), (256, 1)),
        ((1, 1), (1, 1)),
    ],
)
def test_its_longest_side_is_256_at_most(size: tuple[int, int], expected: tuple[int, int]) -> None:
    made = preview(gradient(), size)
    with Image.open(io.BytesIO(made.content)) as image:
        assert (image.format, image.size) == ("WEBP", expected)
        assert image.info.keys().isdisjoint({"xmp", "exif", "icc_profile"})
    assert (made.width, made.height) == expected


def test_it_looks_like_the_picture() -> None:
    made = preview(gradient(800, 600), (800, 600))
    with Image.open(io.BytesIO(made.content)) as image:
        assert np.abs(np.asarray(image).astype(int) - gradient(256, 192)).mean() < 4


@pytest.mark.parametrize(("size", "components"), [((800, 600), (4, 3)), ((600, 800), (3, 4)), ((600, 600), (4, 3))])
def test_the_blurhash_paints_the_picture_s_colours(size: tuple[int, int], components: tuple[int, int]) -> None:
    code = preview(gradient(*size), size).blurhash
    assert blurhash.components(code) == components
    painted = np.asarray(blurhash.decode(code, 20, 20)).clip(0, 255)
    assert np.abs(painted - gradient(20, 20)).mean() < 20


def test_a_thin_picture_has_one_too() -> None:
    assert len(preview(gradient(16_000, 10), (16_000, 10)).blurhash) == 28


def test_the_same_pixels_give_the_same_preview() -> None:
    assert preview(gradient(), (640, 480)) == preview(gradient().copy(), (640, 480))
    assert preview(gradient(), (640, 480)) != preview(gradient()[::-1], (640, 480))


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, -1)])
def test_it_refuses_an_empty_size(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        preview(gradient(), size)
