"""What the Ray task of video.combine does: clips come to this machine's disk, are joined, and the result is stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from cluster.faults import at
from cluster.work import Place
from core import egress
from core.addresses import parse_allowed
from core.settings import Settings
from deployments import clips
from deployments.clips import Film
from media import excerpt
from media.combine import combine
from media.kinds import MAX_BYTES
from storage import Store, open_store
from storage.scratch import check_room, scratch

STAGES = ("fetch", "combine", "publish")
_FETCH_SECONDS = 120.0
_FETCH_ALL_SECONDS = 900.0
"""Of all clips: fifty servers that drip may not hold a slot for hours."""
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Wish:
    """How clips are to be joined: see `media.combine.combine`."""

    overlap_frames: int
    overlap_fps: Fraction | None
    frame_rate: Fraction | None


def combined(places: Sequence[Place], wish: Wish, folder: str) -> Iterator[Any]:
    """A generator of three values, one as each of `STAGES` ends: nothing, what was done, and the outputs.

    Raises:
        FetchFailed: a clip could not be fetched.
        MediaError: a clip cannot be used, or is not longer than the overlap.
        StoreUnavailable: the store fails.
    """
    store = open_store(Settings(), base_url="")
    with scratch() as temporary:
        brought: dict[Place, Path] = {}
        end = time.monotonic() + _FETCH_ALL_SECONDS
        for index, place in enumerate(places):
            if place not in brought:
                brought[place] = temporary / f"{index:02}"
                with at(f"videoUrls[{index}]"):
                    _bring(place, brought[place], store, end - time.monotonic())
        yield None
        paths = [brought[place] for place in places]
        check_room(temporary, sum(path.stat().st_size for path in paths))
        target = temporary / "video.mp4"
        done = combine(
            paths,
            target,
            overlap_frames=wish.overlap_frames,
            overlap_fps=wish.overlap_fps,
            frame_rate=wish.frame_rate,
        )
        yield done
        film = Film(folder, done.width, done.height, done.frames)
        yield clips.outputs(target, excerpt.first_frame(target), film, done.fps, store)


def _bring(place: Place, path: Path, store: Store, left_s: float) -> None:
    check_room(path.parent, MAX_BYTES["video"])
    with path.open("wb") as file:
        if place.key is not None:
            with store.open(place.key) as source:
                while chunk := source.read(_COPY_BYTES):
                    file.write(chunk)
            return
        asyncio.run(
            egress.download(
                place.url or "",
                file,
                max_bytes=MAX_BYTES["video"],
                timeout_s=max(1.0, min(_FETCH_SECONDS, left_s)),
                allow=parse_allowed(Settings().egress_allow),
                accept="video/mp4, video/webm",
            )
        )
