"""Extending a clip: its last frames become the first of a new one, and both become one film (the extension playbook)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from core.errors import OperatorError
from killatamata.client import Client
from media.arithmetic import frames_for
from media.clip import SAMPLE_RATE, fitted
from media.errors import MediaError
from media.kinds import MAX_BYTES
from tasks.video_generate import MAX_FRAMES, MIN_FRAMES

if TYPE_CHECKING:
    from media.probe import VideoInfo

SLOWEST, FASTEST = 8, 30
"""What `sampledFps` may be."""

_OURS = {
    "durationFrames": "--seconds",
    "durationSeconds": "--seconds",
    "sampledFps": "--sampled-fps",
    "overlapFrameImages": "--overlap",
    "overlapFrameImageUrls": "--overlap",
}
"""Fields of the input that both clips must agree on, and what says them."""

Watch: TypeAlias = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""From an accepted job to the finished one."""


class NotExtensible(OperatorError):
    """The clip cannot be extended as asked."""


@dataclass(frozen=True, kw_only=True)
class Extension:
    """How a clip goes on.

    `seconds` is what is added at least; frames go up to 8n + 1. `overlap` sampled frames are repeated, `sampled_fps` are
    made a second. `reference_audio` is sound whose time begins with the clip's. `given` are further fields of the input.
    """

    seconds: float
    overlap: int
    sampled_fps: int | None
    reference_audio: Path | None
    given: Mapping[str, Any]

    def frames(self, fps: int) -> int:
        """Frames of the new clip, overlap included: 8n + 1.

        Raises:
            NotExtensible: too many, or a rate that is none of the model's.
        """
        if not SLOWEST <= fps <= FASTEST:
            raise NotExtensible(f"--sampled-fps is from {SLOWEST} to {FASTEST}, not {fps}")
        if not 0 < self.seconds <= MAX_FRAMES:
            raise NotExtensible(f"--seconds {self.seconds:g} is too much, or nothing")
        frames = max(MIN_FRAMES, frames_for(self.seconds, fps, self.overlap))
        if frames > MAX_FRAMES:
            most = (MAX_FRAMES - self.overlap) // fps
            raise NotExtensible(f"--seconds {self.seconds:g} at {fps} a second is too long; at most {most}")
        return frames


async def extended(
    api: Client, clip: Path, made: Mapping[str, Any] | None, wish: Extension, key: str, watch: Watch
) -> dict[str, Any]:
    """Submit the continuation of `clip` and the film of both; returns the finished job: of the film, or the one that failed.

    `made` is the job that made the clip, when it was one of the account's: what is not asked for otherwise is taken from
    it. Every write carries a key that begins with `key`: repeated with the same words, nothing is made or paid twice.

    Raises:
        NotExtensible: the clip's rate or length do not allow it, or it is none; or no prompt is known.
        Refused, Unreachable, Damaged: as `Client`.
    """
    for name, option in _OURS.items():
        if name in wish.given:
            raise NotExtensible(f"--input {name}=… cannot be: say it with {option}")
    seen = await asyncio.to_thread(_seen, clip)
    before = {} if made is None else dict(made["details"]["effectiveInput"])
    fps = wish.sampled_fps
    if fps is None:
        fps = before.get("sampledFps") or sampled_rate(seen.rate)
    frames = wish.frames(fps)
    given: dict[str, Any] = {
        "prompt": before.get("prompt"),
        "seed": before.get("seed"),
        "width": seen.width,
        "height": seen.height,
        "durationFrames": frames,
        "sampledFps": fps,
        "interpolationFps": round(seen.rate) if seen.rate > fps else 0,
    }
    given = {name: value for name, value in {**given, **wish.given}.items() if value is not None}
    if "prompt" not in given:
        raise NotExtensible("say what happens next: --input prompt='…'")
    with tempfile.TemporaryDirectory(prefix="killatamata-extend-") as folder:
        last = await asyncio.to_thread(_last_frames, clip, wish.overlap, fps, Path(folder))
        given["overlapFrameImages"] = [
            await api.upload(path, "image/webp", idempotency_key=f"{key}-{path.stem}") for path in last
        ]
        if wish.reference_audio is not None:
            path = Path(folder) / "audio.flac"
            start = seen.duration - Fraction(wish.overlap, fps)
            path.write_bytes(await asyncio.to_thread(slice_of, wish.reference_audio, start, Fraction(frames, fps)))
            given["referenceAudio"] = await api.upload(path, "audio/flac", idempotency_key=f"{key}-audio")
    accepted = await api.submit("video.generate", given, idempotency_key=f"{key}-generate")
    job = await watch(accepted)
    if job["status"] != "succeeded":
        return job
    first = await api.upload(clip, "video/mp4", idempotency_key=f"{key}-clip")
    joined = {
        # Without its signature, which is another one each time: the service knows its own, and a repeat must say the same.
        "videoUrls": [first, *(url.partition("?")[0] for url in job["downloadableOutputUrls"])],
        "overlapFrames": wish.overlap,
        "overlapFps": fps,
    }
    return await watch(await api.submit("video.combine", joined, idempotency_key=f"{key}-combine"))


def sampled_rate(rate: Fraction) -> int:
    """The rate at which a clip of `rate` frames a second was most likely sampled: that, or half of it if interpolated.

    Raises:
        NotExtensible: neither is a rate of the model's.
    """
    for fps in (rate, rate / 2):
        if fps.denominator == 1 and SLOWEST <= fps <= FASTEST:
            return int(fps)
    raise NotExtensible(f"the clip has {float(rate):g} frames a second; say with --sampled-fps at how many it was made")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (MediaError, OSError) as error:
        raise NotExtensible(f"{path.name}: {error}") from error


def _seen(clip: Path) -> VideoInfo:
    from media.probe import probe

    with _told(clip):
        return probe(clip)


def _last_frames(clip: Path, count: int, fps: int, folder: Path) -> list[Path]:
    from media.excerpt import last_frames

    with _told(clip):
        found = last_frames(clip, count, Fraction(fps))
    paths = []
    for index, content in enumerate(found):
        paths.append(folder / f"frame-{index:02}.webp")
        paths[-1].write_bytes(content)
    return paths


def slice_of(path: Path, start: Fraction, seconds: Fraction) -> bytes:
    """A part of an audio file as FLAC, from `start`; silence where the file has ended.

    Raises:
        NotExtensible: it is no audio that we take.
    """
    from media import mezzanine, sound

    first, count = (round(value * SAMPLE_RATE) for value in (max(start, Fraction(0)), seconds))
    with _told(path):
        found = sound.decode(path, max_seconds=float(start + seconds) + 1, max_bytes=MAX_BYTES["audio"], cut=True)
    return mezzanine.flac(fitted(found[:, first:], count))
