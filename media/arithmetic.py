"""Frames, sizes and lengths: the whole numbers behind durations, canvases, overlaps and bands. Standard library only.

Durations are seconds, rates are frames per second; both may be fractions and are never added up as floats.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil, isqrt
from typing import TypeAlias

from core.money import round_half_up

Number: TypeAlias = int | float | Fraction

SIDE_STEP = 32
"""Pixels; LTX-2.3 works on latents of 32×32 pixels (LTX-Video, arXiv:2501.00103, section 2), and all canvases follow."""
MAX_PIXELS = 4_194_304
"""4 MP: 2048 × 2048, the published limit of every canvas."""
FRAME_STEP = 8
"""LTX-2.3's causal VAE makes one latent frame of the first picture and one of each further 8 (LTX-Video, arXiv:2501.00103,
section 2; `vae_temporal_compression_ratio` in diffusers): every clip has 8n + 1 frames.
"""

SPEECH_CHARACTERS_PER_SECOND = 15
"""The published price list's estimate for `audio.speak`, whatever the voice; characters are Unicode code points."""
LYRIC_CHARACTERS_PER_SECOND = 12
"""The published price list's estimate for a transcript, by which `audio.annotation.reference` is priced."""
AUDIO_TOKENS_PER_SECOND = Fraction(25, 2)
"""Frames a second of both codecs: Qwen3-TTS's 12 Hz tokenizer, which has 12.5 (arXiv:2601.15621), and the audio tokenizer of
MOSS-SoundEffect v1 (arXiv:2602.10934). A token here is one frame with all its codebooks.
"""

EDIT_MIN_PIXELS = MAX_PIXELS // 16
"""0.25 MP: our choice, a quarter of the 1024 × 1024 that an edit without a source has."""
EDIT_MAX_PIXELS = MAX_PIXELS // 2
"""2 MP: our choice, twice those; an edit has one price, whatever its source."""
EDIT_MAX_ASPECT = 4
"""As published: a source beyond 4:1 is padded to it."""

_NTSC = {"23.976": 24, "23.98": 24, "29.97": 30, "47.952": 48, "59.94": 60}
_TAG = re.compile(r"\[[^\[\]\n]*\]")


def exact(value: Number) -> Fraction:
    """`value` as it was written: 0.1 is one tenth."""
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def frame_rate(value: Number) -> Fraction:
    """The exact rate meant by a written one: 29.97 is 30000/1001 (SMPTE ST 12-1), 25 is 25."""
    ntsc = _NTSC.get(repr(value))
    return exact(value) if ntsc is None else Fraction(ntsc * 1000, 1001)


def floor_side(pixels: int) -> int:
    """`pixels` rounded down to a multiple of `SIDE_STEP`."""
    return pixels - pixels % SIDE_STEP


def is_clip_length(frames: int) -> bool:
    """Whether a clip can have that many frames: 8n + 1."""
    return frames % FRAME_STEP == 1


def clip_lengths_around(frames: int) -> tuple[int, int]:
    """The nearest 8n + 1 at or below `frames`, and at or above it."""
    below = frames - (frames - 1) % FRAME_STEP
    return below, below if below == frames else below + FRAME_STEP


def frames_for(seconds: Number, fps: Number, overlap: int = 0) -> int:
    """The least 8n + 1 frames that last `seconds` at `fps` beyond the `overlap` frames they begin with."""
    return clip_lengths_around(max(1, ceil(exact(seconds) * exact(fps)) + overlap))[1]


def interpolated_frames(frames: int, sampled_fps: Number, interpolation_fps: Number) -> int:
    """Frames of a whole clip after interpolation (0: none): the first and the last stay, so (frames − 1) gaps are refilled.

    As published: round((frames − 1) × interpolation_fps ÷ sampled_fps) + 1, halves up. The rates need no whole ratio, since
    RIFE makes a frame at any time between two (arXiv:2011.06294).
    """
    if not interpolation_fps:
        return frames
    return round_half_up((frames - 1) * exact(interpolation_fps) / exact(sampled_fps)) + 1


def delivered_frames(frames: int, sampled_fps: Number, interpolation_fps: Number, seconds: Number | None = None) -> int:
    """Frames in the file: all after interpolation, or as many as `seconds` take when the clip was asked for in seconds.

    As published, the file lasts exactly those seconds. That may take a few more frames than interpolation gives (17 frames
    at 17 a second last 1 s, but become 41 of 43 at 43): the last one is then held.
    """
    if seconds is None:
        return interpolated_frames(frames, sampled_fps, interpolation_fps)
    return max(1, round_half_up(exact(seconds) * exact(interpolation_fps or sampled_fps)))


def latent_prefix(overlap_frames: int) -> int:
    """The longest prefix of 8m + 1 overlap frames, which enters as latents; the rest are pinned one by one."""
    return clip_lengths_around(overlap_frames)[0] if overlap_frames else 0


def overlap_seconds(overlap_frames: int, fps: Number) -> Fraction:
    """What is cut from the head of a clip that repeats `overlap_frames` of the one before."""
    return overlap_frames / frame_rate(fps)


def fitting_canvas(width: int, height: int, min_side: int) -> tuple[int, int]:
    """The (width, height) of the largest canvas of about the shape of `width` × `height` within `MAX_PIXELS`.

    The short side is at least `min_side`, which is a multiple of 32; both are multiples of 32.
    """
    less, more = sorted((width, height))
    short = max(min_side, floor_side(isqrt(MAX_PIXELS * less // more)))
    long = floor_side(min(MAX_PIXELS // short, isqrt(MAX_PIXELS * more // less)))
    return (long, short) if width >= height else (short, long)


def edit_canvas(width: int, height: int) -> tuple[int, int]:
    """The (width, height) of an edited picture whose upright source is `width` × `height` pixels.

    Beyond 4:1 the short side is padded to 4:1; then scaled, if need be, into 0.25…2 MP, and each side rounded down to a
    multiple of 32.
    """
    width, height = max(width, ceil(height / EDIT_MAX_ASPECT)), max(height, ceil(width / EDIT_MAX_ASPECT))
    area = width * height
    target = min(max(area, EDIT_MIN_PIXELS), EDIT_MAX_PIXELS)
    if target != area:
        width, height = isqrt(width * width * target // area), isqrt(height * height * target // area)
    return floor_side(width), floor_side(height)


def speech_seconds(text: str) -> Fraction:
    """How long `text` takes to say, at 15 characters a second."""
    return Fraction(len(text), SPEECH_CHARACTERS_PER_SECOND)


def sung_text(transcript: str) -> str:
    """`transcript` without its `[…]` tags, and with every run of white space as one space."""
    return " ".join(_TAG.sub(" ", transcript).split())


def lyric_seconds(transcript: str) -> Fraction:
    """How long `transcript` takes to sing, at 12 characters a second of what is sung."""
    return Fraction(len(sung_text(transcript)), LYRIC_CHARACTERS_PER_SECOND)


def tokens_for(seconds: Number) -> int:
    """Audio tokens that `seconds` take, at 12.5 a second."""
    return ceil(exact(seconds) * AUDIO_TOKENS_PER_SECOND)


def band(seconds: Number, bands: tuple[int, ...], step: int) -> int:
    """The least of the ascending `bands` (in seconds) that holds `seconds`; above the last, one longer by `step`s."""
    for top in bands:
        if seconds <= top:
            return top
    return bands[-1] + step * ceil((exact(seconds) - bands[-1]) / step)
