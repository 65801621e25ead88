"""Clips that say of every frame which one it is, with flashes and beeps that belong together, and what reads them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.video.frame import PictureType

BITS = 16
SIZE = (160, 96)
FLASH_FRAMES = 2
RATE_25 = Fraction(25)


def drawn(number: int, size: tuple[int, int], lit: bool) -> npt.NDArray[np.uint8]:
    """A picture, uint8 RGB: `number` in 16 bars from bit 0 on the left, above a field that is white when `lit`."""
    width, height = size
    picture = np.full((height, width, 3), 48, np.uint8)
    picture[height * 3 // 4 :, :, 0] = np.linspace(0, 255, width).astype(np.uint8)
    picture[height // 2 : height * 3 // 4] = 255 if lit else 16
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        picture[height // 8 : height * 3 // 8, left:right] = 235 if number >> bit & 1 else 20
    return picture


def beeps(seconds: Fraction, at: Sequence[Fraction], rate: int, channels: int) -> npt.NDArray[np.float32]:
    """Silence with a beep of 60 ms at each of these seconds."""
    sound = np.zeros(round(seconds * rate), np.float32)
    for begin in at:
        first = round(begin * rate)
        length = len(sound[first : first + rate * 6 // 100])
        sound[first : first + length] = 0.6 * np.cos(2 * np.pi * 1000 * np.arange(length) / rate)
    return np.repeat(sound[None], channels, 0)


def made(
    path: Path,
    frames: int = 50,
    *,
    first: int = 0,
    size: tuple[int, int] = SIZE,
    fps: Fraction = RATE_25,
    flashes: Sequence[int] = (),
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    pixel_format: str = "yuv420p",
    colours: tuple[int, int, int, int] = (1, 1, 1, 1),
    gop: int | None = None,
    aspect: Fraction | None = None,
    times: Sequence[Fraction] | None = None,
    sound: str | None = "aac",
    sound_rate: int = 48_000,
    channels: int = 2,
    sound_seconds: Fraction | None = None,
    sound_starts: Fraction = Fraction(0),
    turned: int = 0,
    muxing: Mapping[str, str] | None = None,
    alpha: npt.NDArray[np.uint8] | None = None,
) -> Path:
    """A clip whose frames are numbered from `first` on, as our own encoder makes them unless told otherwise.

    `times` are the frames' seconds, and one more for the end. `flashes` are frames that light up, each with a beep.
    """
    ours = codec == "libx264" and options is None
    with av.open(str(path), "w", options=dict(muxing or {})) as container:
        video: Any = container.add_stream(codec, rate=fps)
        video.width, video.height, video.pix_fmt = *size, pixel_format
        context = video.codec_context
        context.time_base = 1 / fps if times is None else Fraction(1, 90_000)
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = colours
        context.gop_size = gop or round(fps)
        context.flags |= Flags.frame_duration
        context.options = {"preset": "veryfast", "crf": "18"} if ours else dict(options or {})
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if turned:
            video.set_display_rotation(turned)
        heard: Any = None
        if sound is not None:
            heard = container.add_stream(sound, rate=sound_rate, layout="mono" if channels == 1 else "stereo")
        shown = [place / fps for place in range(frames + 1)] if times is None else list(times)
        lit = {frame + more for frame in flashes for more in range(FLASH_FRAMES)}
        for place in range(frames):
            frame = _frame(drawn(first + place, size, place in lit), pixel_format, alpha, colours)
            frame.pts = round(shown[place] / context.time_base)
            frame.time_base = context.time_base
            frame.duration = round((shown[place + 1] - shown[place]) / context.time_base)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if heard is not None:
            length = sound_seconds if sound_seconds is not None else shown[frames]
            wave = beeps(length, [shown[flash] for flash in flashes], sound_rate, channels)
            _hear(container, heard, wave, sound_rate, sound_starts)
    return path


def _frame(
    picture: npt.NDArray[np.uint8],
    pixel_format: str,
    alpha: npt.NDArray[np.uint8] | None,
    colours: tuple[int, int, int, int],
) -> av.VideoFrame:
    if alpha is not None:
        frame = av.VideoFrame.from_ndarray(np.dstack([picture, alpha]), format="rgba")
    else:
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame = frame.reformat(format=pixel_format, dst_colorspace=colours[2] if colours[2] != 2 else None)
    frame.pict_type = PictureType.NONE
    return frame


def _hear(container: Any, stream: Any, wave: npt.NDArray[np.float32], rate: int, starts: Fraction) -> None:
    resampler = av.AudioResampler(format=stream.format.name, layout=stream.layout.name, rate=rate, frame_size=960)
    for at in range(0, wave.shape[1], rate):
        part = np.ascontiguousarray(wave[:, at : at + rate])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, at + round(starts * rate), Fraction(1, rate)
        for ready in resampler.resample(frame):
            container.mux(stream.encode(ready))
    for ready in resampler.resample(None):
        container.mux(stream.encode(ready))
    container.mux(stream.encode(None))


@dataclass(frozen=True)
class Seen:
    """What is in a file: each frame's time and number, and when it lit up; each beep's time; how long the sound is."""

    times: list[Fraction]
    numbers: list[int]
    flashes: list[Fraction]
    beeps: list[Fraction]
    sound: npt.NDArray[np.float32]

    @property
    def offsets(self) -> list[float]:
        """Seconds from each flash to the beep nearest to it."""
        return [float(min((beep - flash for beep in self.beeps), key=abs)) for flash in self.flashes]


def seen(path: Path, area: tuple[int, int, int, int] | None = None) -> Seen:
    """Reads a file back; `area` is where the pictures are: left, top, width, height."""
    times, numbers, lit, flashes = [], [], False, []
    for time, whole in lumas(path):
        left, top, width, height = area or (0, 0, whole.shape[1], whole.shape[0])
        luma = whole[top : top + height, left : left + width]
        height, width = luma.shape
        row = luma[height // 4]
        numbers.append(sum(1 << bit for bit in range(BITS) if row[(2 * bit + 1) * width // (2 * BITS)] > 128))
        times.append(time)
        now = bool(luma[height * 5 // 8, ::8].mean() > 150)
        if now and not lit:
            flashes.append(time)
        lit = now
    sound, begins = heard(path)
    hot = np.flatnonzero(np.abs(sound[0]) > 0.2)
    onsets = hot[np.diff(hot, prepend=-(10**9)) > 4800]
    return Seen(times, numbers, flashes, [begins + Fraction(int(at), 48_000) for at in onsets], sound)


def lumas(path: Path) -> list[tuple[Fraction, npt.NDArray[np.uint8]]]:
    """Each frame's time and luma."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            plane = np.frombuffer(bytes(frame.planes[0]), np.uint8).reshape(frame.planes[0].height, -1)
            assert frame.pts is not None
            assert frame.time_base is not None
            found.append((frame.pts * frame.time_base, plane[:, : frame.width].copy()))
    return found


def heard(path: Path) -> tuple[npt.NDArray[np.float32], Fraction]:
    """The sound at 48 kHz, float32 of shape (2, samples), and when it begins."""
    blocks, begins = [], None
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return np.zeros((2, 0), np.float32), Fraction(0)
        for frame in container.decode(audio=0):
            if begins is None:
                begins = Fraction(frame.pts or 0) * (frame.time_base or 1)
            blocks.append(frame.to_ndarray().astype(np.float32))
    return np.concatenate(blocks, 1), begins or Fraction(0)
