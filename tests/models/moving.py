"""A photograph in front of a moving camera: any moment can be drawn, so the truth between frames is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import killatamata
from media.clip import CHUNK_FRAMES, Clip
from models.yuv import from_i420, to_i420

Planes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Camera:
    """Movement from one frame to the next: `across` and `down` in widths, `zoom` as a factor, `turn` in radians."""

    across: float = 0.0
    down: float = 0.0
    zoom: float = 1.0
    turn: float = 0.0

    def rgb(self, at: float, width: int, height: int) -> torch.Tensor:
        """Float RGB (1, 3, height, width) of the moment `at`, in frames."""
        size, angle = 0.6 / self.zoom**at, self.turn * at
        cos, sin, aspect = size * math.cos(angle), size * math.sin(angle), height / width
        shift = (2 * size * self.across * at, 2 * size * self.down * at / aspect)
        affine = torch.tensor([[[cos, -sin * aspect, shift[0]], [sin / aspect, cos, shift[1]]]])
        grid = torch.nn.functional.affine_grid(affine, (1, 3, height, width), align_corners=False)
        picture = torch.nn.functional.grid_sample(
            photograph(), grid, mode="bicubic", padding_mode="reflection", align_corners=False
        )
        return picture.clamp(0, 1)

    def planes(self, at: float, width: int, height: int) -> Planes:
        """The same as I420 (height * 3 / 2, width)."""
        frame: Planes = to_i420(self.rgb(at, width, height))[0].numpy()
        return frame

    def frames(self, count: int, width: int, height: int) -> list[Planes]:
        """The moments 0, 1, 2, …"""
        return [self.planes(at, width, height) for at in range(count)]


PAN = Camera(across=0.02, down=0.008)


@cache
def photograph() -> torch.Tensor:
    """Float RGB (1, 3, 400, 600)."""
    with Image.open(Path(killatamata.__file__).parent / "photographs" / "coffee.jpg") as image:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def chunks(frames: Iterable[Planes], size: int = CHUNK_FRAMES) -> Iterator[Planes]:
    """`frames` in chunks of `size`, each made when it is drawn."""
    waiting: list[Planes] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting.clear()
    if waiting:
        yield np.stack(waiting)


def clip(frames: Sequence[Planes], fps: int | Fraction, size: int = CHUNK_FRAMES, **changes: Any) -> Clip:
    """A silent clip of `frames`."""
    rows, width = frames[0].shape
    made = {"chunks": chunks(frames, size), "sound": None, "details": {}} | changes
    return Clip(width=width, height=rows * 2 // 3, fps=Fraction(fps), frames=len(frames), **made)


def psnr(one: Planes, two: Planes) -> float:
    """In dB, of the RGB of two I420 frames; infinite for equal ones."""
    first, second = (from_i420(torch.from_numpy(np.ascontiguousarray(each))[None]) for each in (one, two))
    error = float(((first - second) ** 2).mean())
    return -10 * math.log10(error) if error else math.inf


def blended(one: Planes, two: Planes, between: float) -> Planes:
    """What there would be without interpolation of movement: both frames, mixed."""
    return np.rint(one * (1 - between) + two * between).astype(np.uint8)


def ignore(step: int, total: int, preview: bytes | None = None, /) -> None:
    """An `on_step` that goes on."""
