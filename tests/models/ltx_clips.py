"""Requests, pictures and sounds of the LTX tests, and what they look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from media.clip import SAMPLE_RATE, Clip, sound_samples
from models.ltx_run import Run
from models.ltx_video import LtxVideo, VideoRequest


def request(**changes: Any) -> VideoRequest:
    """The smallest clip that has more than one chunk."""
    standard = {"prompt": "a red fox", "width": 64, "height": 64, "frames": 17, "fps": 24, "steps": 8, "seed": 7}
    return VideoRequest(**{**standard, **changes})


def picture(shade: int, width: int = 64, height: int = 64) -> npt.NDArray[np.uint8]:
    """A ramp to the right and down, blue by `shade`."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack((columns * 255 // width, rows * 255 // height, np.full_like(rows, shade)), -1).astype(np.uint8)


def tone(frames: int = 17, fps: int = 24, hertz: float = 220.0) -> npt.NDArray[np.float32]:
    """A stereo sine, exactly as long as the clip."""
    at = np.arange(sound_samples(frames, Fraction(fps))) / SAMPLE_RATE
    return np.stack((np.sin(at * 2 * np.pi * hertz), np.cos(at * 2 * np.pi * hertz))).astype(np.float32) * np.float32(
        0.3
    )


def ignore(step: int, total: int, preview: bytes | None = None, /) -> None:
    """Go on."""


def forbid(*_: object, **__: object) -> Any:
    """Fail the test."""
    raise AssertionError("must not be called")


def frames(clip: Clip) -> npt.NDArray[np.uint8]:
    """All of them, which draws the clip."""
    return np.concatenate(list(clip.chunks))


def run(engine: LtxVideo, **changes: Any) -> npt.NDArray[np.uint8]:
    """The frames of `request(**changes)`."""
    return frames(engine.run(request(**changes), ignore))


def latents(engine: LtxVideo, **changes: Any) -> torch.Tensor:
    """The latents of `request(**changes)` after its last step."""
    return Run(request(**changes), engine._stages, "cpu", ignore, None).denoise("a red fox", "")[0]


@contextmanager
def passes(engine: LtxVideo) -> Iterator[list[dict[str, Any]]]:
    """What the transformer is called with, one entry a pass."""
    seen: list[dict[str, Any]] = []

    def hook(_: Any, __: Any, given: dict[str, Any], ___: Any) -> None:
        seen.append(given)

    handle = engine._pipeline.transformer.register_forward_hook(hook, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
