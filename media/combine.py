"""Clips joined in playback order, each with its own sound; the picture is copied wherever that is as good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from media.arithmetic import overlap_seconds
from media.combine_copy import write_copied
from media.combine_fit import canvas_of, is_hdr, is_letterboxed, is_scaled
from media.combine_full import write_encoded
from media.combine_smart import NotSmart, smart_plan
from media.combine_source import MAX_CLIP_SECONDS, UPRIGHT, Source, source
from media.combine_target import WORKERS
from media.combine_timeline import Part, timeline
from media.errors import MediaTooLong

MIN_RATE, MAX_RATE = Fraction(1), Fraction(60)
"""Frames a second of a result; the first clip's rate is held within when none is asked for."""


@dataclass(frozen=True)
class Combined:
    """What was written: `frames` frames of `width` x `height` pixels at `fps`, of which so many were copied and encoded.

    `reason` says why not all could be copied, None if they could. `adjustments` names what was done to which clips, by
    index: `letterboxed`, `scaled`, `turned`, `resampled` (another frame rate, or none that is constant), `silent` (no sound
    of its own), `tone_mapped` (HDR or BT.2020), `reduced` (more than 8 bits), `flattened` (alpha over black).
    """

    method: Literal["smart", "full"]
    reason: str | None
    width: int
    height: int
    fps: Fraction
    frames: int
    copied_frames: int
    encoded_frames: int
    adjustments: Mapping[str, tuple[int, ...]]


def _silently(_done: int, _total: int) -> None:
    return


def combine(
    clips: Sequence[Path],
    target: Path,
    *,
    overlap_frames: int,
    overlap_fps: Fraction | None,
    frame_rate: Fraction | None,
    on_clip: Callable[[int, int], None] = _silently,
) -> Combined:
    """Joins `clips` into `target`, an MP4 with H.264 and AAC at 48 kHz in stereo.

    `overlap_frames` ÷ `overlap_fps` seconds of picture and sound are cut from the head of every clip after the first;
    `overlap_fps` is `frame_rate` when None, and that is the first clip's rate. Sound is cut to the sample; the picture
    follows it to the nearest frame. `on_clip` is told how many of all clips are done, again from the first one when
    copying failed; what it raises ends the work. `target` is there only if this returns.

    Raises:
        ValueError: no clips, a negative overlap, or a rate that is not positive.
        InvalidMedia: a clip is empty, broken, cut off or too large; `NoPicture` if it has no video stream.
        MediaTooLong: a clip, or all of them together, last longer than an hour.
        UnsupportedMedia: a clip is neither MP4 nor WebM, or in a format that cannot be decoded.
        OverlapTooLong: a clip after the first is no longer than what is cut.
    """
    if not clips or overlap_frames < 0 or any(rate is not None and rate <= 0 for rate in (overlap_fps, frame_rate)):
        raise ValueError("combine takes one clip or more, an overlap of 0 or more frames, and positive rates")
    with ThreadPoolExecutor(WORKERS, "source") as pool:
        sources = list(pool.map(source, clips, range(len(clips))))
    fps = frame_rate or _rate_of(sources[0])
    parts = timeline(sources, overlap_seconds(overlap_frames, overlap_fps or fps), fps)
    if parts[-1].end_slot / fps > MAX_CLIP_SECONDS:
        raise MediaTooLong(
            f"The clips last {float(parts[-1].end_slot / fps):.0f} s together; send at most {MAX_CLIP_SECONDS} s."
        )
    try:
        return _joined(parts, target, fps, on_clip)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _joined(parts: Sequence[Part], target: Path, fps: Fraction, on_clip: Callable[[int, int], None]) -> Combined:
    frames, look = parts[-1].end_slot, parts[0].source.look
    try:
        plan = smart_plan(parts, fps)
        write_copied(target, parts, plan, on_clip)
    except NotSmart as why:
        canvas = canvas_of(look)
        write_encoded(target, parts, canvas, fps, on_clip)
        return Combined("full", str(why), *canvas, fps, frames, 0, frames, _adjustments(parts, canvas, fps))
    canvas = look.width, look.height
    adjustments = _adjustments(parts, canvas, fps)
    return Combined("smart", None, *canvas, fps, frames, plan.copied, plan.encoded, adjustments)


def _rate_of(first: Source) -> Fraction:
    rate = first.rate or first.mean_rate.limit_denominator(1001)
    return min(max(rate, MIN_RATE), MAX_RATE)


def _adjustments(parts: Sequence[Part], canvas: tuple[int, int], fps: Fraction) -> Mapping[str, tuple[int, ...]]:
    tests: Mapping[str, Callable[[Source], bool]] = {
        "letterboxed": lambda clip: is_letterboxed(clip.look, canvas),
        "scaled": lambda clip: is_scaled(clip.look, canvas),
        "turned": lambda clip: clip.look.matrix != UPRIGHT,
        "resampled": lambda clip: clip.rate != fps,
        "silent": lambda clip: not clip.has_sound,
        "tone_mapped": lambda clip: is_hdr(clip.look),
        "reduced": lambda clip: clip.is_deep,
        "flattened": lambda clip: clip.has_alpha,
    }
    found = {name: tuple(part.source.index for part in parts if test(part.source)) for name, test in tests.items()}
    return {name: indices for name, indices in found.items() if indices}
