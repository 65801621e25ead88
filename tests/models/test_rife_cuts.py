"""Movements of a photograph are no cuts; other pictures, other parts of it and flashes are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models.rife_cuts import SIDE, is_cut, small
from tests.models.moving import Camera, Planes

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, HEIGHT = 320, 192

MOVES = {
    "still": Camera(),
    "pan": Camera(across=0.05),
    "fast pan": Camera(across=-0.1, down=0.03),
    "tilt": Camera(down=0.06),
    "zoom in": Camera(zoom=1.1),
    "zoom out": Camera(zoom=0.9),
    "turn": Camera(turn=0.1),
    "all at once": Camera(across=0.04, down=0.02, zoom=1.06, turn=0.05),
}


def luma(camera: Camera, at: float, width: int = WIDTH, height: int = HEIGHT) -> Planes:
    return camera.planes(at, width, height)[:height]


def scene(name: str) -> Planes:
    """Something else than the photograph from its middle."""
    here = luma(Camera(), 0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    made: dict[str, npt.NDArray[Any]] = {
        "upside down": here[::-1].astype(float),
        "closer": luma(Camera(zoom=3), 1).astype(float),
        "another corner": luma(Camera(across=0.45, down=0.25), 1).astype(float),
        "negative": 251.0 - here,
        "stripes": 126 + 90 * np.sign(np.sin(columns / 25)),
        "a disc": np.where(np.hypot(rows - 96, columns - 160) < 60, 200.0, 60.0),
        "a ramp": 16 + 219 * columns / WIDTH,
        "black": np.full(here.shape, 16.0),
        "white": np.full(here.shape, 235.0),
        "flash": np.minimum(here + 80.0, 235),
        "blocks": np.kron(np.random.default_rng(1).uniform(16, 235, (6, 10)), np.ones((32, 32))),
    }
    return made[name].astype(np.uint8)


OTHERS = (
    *("upside down", "closer", "another corner", "negative", "stripes", "a disc", "a ramp", "black", "white", "flash"),
    "blocks",
)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_movement_is_no_cut(name: str, at: int) -> None:
    camera = MOVES[name]
    assert not is_cut(small(luma(camera, at)), small(luma(camera, at + 1)))


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_one_either_way(name: str) -> None:
    here, there = small(luma(Camera(), 0)), small(scene(name))
    assert is_cut(here, there)
    assert is_cut(there, here)


def test_a_fade_and_a_dissolve_of_half_a_second_are_none() -> None:
    here, there = (each.astype(float) for each in (luma(Camera(), 0), scene("blocks")))
    for towards in (np.full(here.shape, 16.0), np.full(here.shape, 235.0), there):
        steps = [small((here + (towards - here) * step / 12).astype(np.uint8)) for step in range(13)]
        assert not any(is_cut(one, two) for one, two in pairwise(steps))


def test_noise_is_none() -> None:
    draw = np.random.default_rng(2)
    grey = [small(draw.integers(90, 140, (HEIGHT, WIDTH)).astype(np.uint8)) for _ in range(2)]
    assert not is_cut(*grey)
    grain = [
        small((luma(Camera(), 0) + draw.normal(0, 20, (HEIGHT, WIDTH))).clip(16, 235).astype(np.uint8)) for _ in "ab"
    ]
    assert not is_cut(*grain)


@pytest.mark.parametrize(
    ("width", "height"), [(2, 2), (2, 512), (512, 2), (6, 4), (16, 16), (34, 18), (1088, 1920), (2048, 64)]
)
def test_any_size(width: int, height: int) -> None:
    here = luma(Camera(), 0, width, height)
    picture = small(here)
    assert max(picture.shape) == min(SIDE, max(width, height))
    assert picture.dtype == np.float32
    assert not is_cut(picture, picture)
    assert is_cut(picture, small(np.full_like(here, 235)))


def test_a_small_picture_holds_means_of_areas() -> None:
    frame = np.random.default_rng(3).integers(16, 236, (95, 160)).astype(np.uint8)
    assert np.allclose(small(frame), (frame.reshape(19, 5, 32, 5).mean((1, 3)) - 16) / 219, atol=1e-5)
    assert small(np.full((96, 160), 235, np.uint8)).max() == pytest.approx(1)
