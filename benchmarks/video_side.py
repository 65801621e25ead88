"""`python -m benchmarks.video_side`: one segment of a long film without its model, and the memory that it takes.

Reads `{"segment", "folder", "frames", "stored"}`. `generate` keeps a synthetic clip of 1920x1088 at 30 a second as a
checkpoint; `deliver` makes the film of it at 60 a second, each frame shown twice. Writes `{"peak", "seconds", "stored"}`:
bytes, the checkpoint.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments import clips
from deployments.clips import Film, Mezzanine, StoredClip
from media.clip import CHUNK_FRAMES, Clip, sound_samples
from storage.local import LocalStore

WIDTH, HEIGHT, FPS = 1920, 1088, Fraction(30)


def synthetic(frames: int) -> Clip:
    """A textured picture that moves, with noise for sound: nothing that an encoder could skip."""
    rng = np.random.default_rng(7)
    texture = np.kron(rng.integers(30, 220, (HEIGHT // 8, WIDTH // 8 + 80)), np.ones((8, 8))).astype(np.uint8)
    texture += rng.integers(0, 8, texture.shape, np.uint8)

    def chunks() -> Iterator[npt.NDArray[np.uint8]]:
        for start in range(0, frames, CHUNK_FRAMES):
            chunk = np.full((min(CHUNK_FRAMES, frames - start), HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
            for index, planes in enumerate(chunk):
                at = start + index
                planes[:HEIGHT] = texture[:, at % 640 : at % 640 + WIDTH]
            yield chunk

    sound = rng.uniform(-0.2, 0.2, (2, sound_samples(frames, FPS))).astype(np.float32)
    return Clip(WIDTH, HEIGHT, FPS, frames, chunks(), sound, {})


def doubled(clip: Clip) -> Clip:
    """Twice the rate: what stands in for the interpolation."""

    def chunks() -> Iterator[npt.NDArray[np.uint8]]:
        for chunk in clip.chunks:
            for half in np.array_split(chunk, 2):
                if len(half):
                    yield half.repeat(2, axis=0)

    return replace(clip, fps=2 * clip.fps, frames=2 * clip.frames, chunks=chunks())


def _peak() -> int:
    """This process's own; `ru_maxrss` begins with what the one that started it had."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    """The command."""
    order: dict[str, Any] = json.load(sys.stdin)
    store = LocalStore(Path(order["folder"]), "", None)
    began, stored = time.perf_counter(), None
    if order["segment"] == "generate":
        kept = clips.take(Mezzanine("jobs/film/1"), synthetic(order["frames"]), store)
        assert isinstance(kept, StoredClip)
        stored = asdict(kept)
    else:
        film = Film("jobs/film/2", WIDTH, HEIGHT, 2 * order["frames"] - 1)
        with clips.opened(StoredClip(**order["stored"]), store) as clip:
            clips.take(film, doubled(clip), store)
    print(json.dumps({"peak": _peak(), "seconds": time.perf_counter() - began, "stored": stored}))


if __name__ == "__main__":
    main()
