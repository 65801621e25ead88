"""Clips that the tests of media are made of: frames that count themselves, and sounds that click."""

from __future__ import annotations

import io
import itertools
import wave
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from media.clip import SAMPLE_RATE, sound_samples
from media.frames import frame_of

Planes = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]

BITS = 12
BRIGHT, DARK = 220, 30
FLASH_EVERY = 10
CLICK = 240


def chunk(frames: Sequence[int], width: int = 128, height: int = 96) -> Planes:
    """A frame for each number: a gradient that moves, the number as blocks along the top, bright below on each tenth."""
    planes = np.empty((len(frames), height * 3 // 2, width), np.uint8)
    columns = np.arange(width)
    for picture, number in zip(planes, frames, strict=True):
        picture[:height] = 60 + (columns + 2 * number) % 64
        picture[height // 2 : height * 3 // 4] = BRIGHT if number % FLASH_EVERY == 0 else DARK
        for bit in range(BITS):
            left, right = width * bit // BITS, width * (bit + 1) // BITS
            picture[: height // 4, left:right] = BRIGHT if number >> bit & 1 else DARK
        chroma = picture[height:].reshape(2, -1)
        chroma[0], chroma[1] = 110, 140
    return planes


def chunks(frames: int, width: int = 128, height: int = 96) -> Iterator[Planes]:
    """`frames` of them, sixteen at a time."""
    numbers = iter(range(frames))
    while some := list(itertools.islice(numbers, 16)):
        yield chunk(some, width, height)


def number(luma: npt.NDArray[Any]) -> int:
    """The number that is drawn in the luma plane of a frame."""
    height, width = luma.shape
    band = luma[height // 16 : height * 3 // 16].astype(int)
    blocks = (band[:, width * bit // BITS + 2 : width * (bit + 1) // BITS - 2].mean() for bit in range(BITS))
    return sum((block > (BRIGHT + DARK) / 2) << bit for bit, block in enumerate(blocks))


def is_flash(luma: npt.NDArray[Any]) -> bool:
    height = luma.shape[0]
    return bool(luma[height * 9 // 16 : height * 11 // 16].mean() > (BRIGHT + DARK) / 2)


def clicks(frames: int, fps: Fraction) -> Samples:
    """A short click where each tenth frame begins, the right side at half the level, as long as the frames."""
    sound = np.zeros((2, sound_samples(frames, fps)), np.float32)
    click = 0.8 * np.sin(2 * np.pi * 2000 / SAMPLE_RATE * np.arange(CLICK))
    for frame in range(0, frames, FLASH_EVERY):
        start = sound_samples(frame, fps)
        piece = click[: sound.shape[1] - start]
        sound[0, start : start + len(piece)] = piece
        sound[1, start : start + len(piece)] = piece / 2
    return sound


def onsets(sound: Samples) -> list[int]:
    """Where the clicks of `sound` begin, in samples."""
    loud = np.flatnonzero(np.abs(sound[0]) > 0.2)
    return [int(each) for each, gap in zip(loud, np.diff(loud, prepend=-SAMPLE_RATE), strict=True) if gap > CLICK]


def seen(path: Path) -> list[tuple[Fraction, int, bool]]:
    """When each frame of a video is shown, in seconds, its number, and whether it flashes."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            luma = frame.reformat(format="gray8" if frame.format.name != "yuv420p" else None).to_ndarray()
            luma = luma[: frame.height]
            found.append((frame.pts * frame.time_base, number(luma), is_flash(luma)))
    return found


def made(
    path: Path,
    frames: int = 20,
    *,
    codec: str = "libx264",
    container: str | None = None,
    fps: Fraction = Fraction(25),
    size: tuple[int, int] = (128, 96),
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    tick: Fraction | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    aspect: Fraction | None = None,
    colours: tuple[int, int, int] | None = None,
    sound: Samples | None = None,
    sound_codec: str = "aac",
    alpha: bool = False,
) -> Path:
    """A video by FFmpeg alone; `times` are the time stamps of its frames in ticks."""
    with av.open(str(path), "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = tick or 1 / fps
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if colours:
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace = colours
        if rotation:
            stream.set_display_rotation(rotation)
        if alpha:
            stream.metadata["alpha_mode"] = "1"
        voice: Any = None
        if sound is not None:
            voice = output.add_stream(sound_codec, rate=SAMPLE_RATE, layout="stereo")
        even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        for index in range(frames):
            frame = frame_of(chunk([index], *even)[0]).reformat(*size, format=pix_fmt)
            if colours:
                frame.color_primaries, frame.color_trc, frame.colorspace = colours
            frame.pts, frame.time_base = times[index] if times else index, tick or 1 / fps
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout="stereo")
            piece.sample_rate, piece.pts, piece.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
            output.mux(voice.encode(piece))
            output.mux(voice.encode(None))
    return path


def sounding(
    container: str, codec: str, samples: Samples, *, rate: int = SAMPLE_RATE, layout: str = "stereo", **options: str
) -> bytes:
    """`samples`, (2, n) at 48 kHz, as a file of sound alone."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate, layout=layout, options=options)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        resampler = av.AudioResampler(stream.format.name, layout, rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return file.getvalue()


def wav(samples: npt.NDArray[Any], rate: int = SAMPLE_RATE) -> bytes:
    """A WAV of 16 bits of `samples`, int16 (n, channels)."""
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setnchannels(samples.shape[1])
        output.setsampwidth(2)
        output.setframerate(rate)
        output.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()
