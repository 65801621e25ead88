"""What a clip to be joined holds: its picture, its timing, and whether it can be read to its end."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias, cast

import av
from av.buffer import Buffer
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.video.stream import VideoStream

from media.arithmetic import frame_rate
from media.errors import InvalidMedia, MediaError, MediaTooLong, NoPicture, UnsupportedMedia
from media.frames import BT709, LIMITED
from media.index import check_index
from media.kinds import MAX_BYTES, NAMES, sniff
from media.sound import MAX_CHANNELS, MAX_RATE, MIN_RATE
from media.whole import is_cut_off

MAX_CLIP_SECONDS = 3600
MAX_CLIP_PIXELS = 4096 * 2304
"""Of one frame, also in square pixels: 4K of cinemas and of television."""
MAX_CLIP_SIDE = 8192
MAX_CLIP_FRAMES = MAX_CLIP_SECONDS * 240

_OPENED = {"protocol_whitelist": "file", "max_pixels": str(MAX_CLIP_PIXELS)}
_DEMUXERS = {"video/mp4": "mov", "video/webm": "matroska"}
_NTSC_RATES = {frame_rate(value) for value in (23.976, 29.97, 47.952, 59.94)}

Matrix: TypeAlias = tuple[int, int, int, int]
"""The signs of a, b, c and d in a display matrix (ISO/IEC 14496-12, section 8.3.2): how a frame is turned to be shown."""
UPRIGHT: Matrix = (1, 0, 0, 1)
PIXEL_FORMAT = "yuv420p"
OURS = (BT709, BT709, BT709, LIMITED)
"""The colour tags of what our encoder makes."""


@dataclass(frozen=True)
class Look:
    """How frames are stored: pixels, their format, the shape of one pixel, colour tags (as ITU-T H.273 numbers them)."""

    width: int
    height: int
    pixel_format: str
    aspect: Fraction
    colours: tuple[int, int, int, int]
    matrix: Matrix

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height in square pixels, upright."""
        width, height = self.width, self.height
        if self.aspect > 1:
            width = max(1, round(width * self.aspect))
        elif self.aspect < 1:
            height = max(1, round(height / self.aspect))
        return (width, height) if self.matrix[0] else (height, width)


@dataclass(frozen=True)
class Source:
    """One clip. Its time begins with its first shown frame and is counted in seconds.

    `start` is that frame's time in the file. `pts` and `keys` are of all packets in decoding order, in units of `time_base`.
    `rate` is that of the picture if it is constant, else None; `mean_rate` is always there.
    """

    index: int
    path: Path
    demuxer: str
    codec: str
    extradata: bytes
    look: Look
    has_sound: bool
    has_alpha: bool
    is_deep: bool
    time_base: Fraction
    start: Fraction
    length: Fraction
    pts: array[int]
    keys: bytearray
    frames: int
    trimmed: bool
    rate: Fraction | None
    mean_rate: Fraction


def named(index: int, says: str) -> str:
    """A message about clip `index` that names its field."""
    return f"{place(index)}: {says}"


def place(index: int) -> str:
    """Where clip `index` stands in a job's input."""
    return f"videoUrls[{index}]"


@contextmanager
def opened(path: Path, demuxer: str) -> Iterator[InputContainer]:
    """The clip's container, which may refer to no other file."""
    with av.open(str(path), format=demuxer, options=_OPENED, metadata_errors="replace") as container:
        yield container


@contextmanager
def blamed(index: int) -> Iterator[None]:
    """Says of whatever its decoding raises that it is clip `index`.

    Raises:
        InvalidMedia: the libraries could not read it.
    """
    try:
        yield
    except MediaError as problem:
        problem.path = place(index)
        raise
    except av.FFmpegError as problem:
        broken = InvalidMedia(named(index, f"the clip is broken ({problem.strerror}); send it whole."))
        broken.path = place(index)
        raise broken from problem


def picture_of(container: InputContainer) -> VideoStream:
    """The stream that is the picture; a cover is none.

    Raises:
        NoPicture: there is none.
    """
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is not None:
                stream.codec_context.options = {"max_pixels": str(MAX_CLIP_PIXELS)}
            return stream
    raise NoPicture("the file has no picture; send a clip with a video stream.")


def source(path: Path, index: int) -> Source:
    """Clip `index`, read once from end to end; only its first frame is decoded.

    Raises:
        InvalidMedia: it is empty, broken, cut off or too large.
        NoPicture: it has no video stream.
        MediaTooLong: it lasts longer than `MAX_CLIP_SECONDS`.
        UnsupportedMedia: it is neither MP4 nor WebM, or what is in it cannot be decoded.
    """
    with blamed(index):
        size = path.stat().st_size
        if not size:
            raise InvalidMedia(named(index, "the file is empty; send the whole clip."))
        if size > MAX_BYTES["video"]:
            raise InvalidMedia(named(index, f"the file has {size} bytes; send at most {MAX_BYTES['video']}."))
        with path.open("rb") as file:
            demuxer = _DEMUXERS.get(sniff(file.read(64), "video") or "")
        if demuxer is None:
            raise UnsupportedMedia(named(index, f"the file is not {NAMES['video']}; send one that is."))
        try:
            if demuxer == "mov":
                with path.open("rb") as file:
                    check_index(file)
            if is_cut_off(path):
                raise InvalidMedia("the file is cut off; send it whole.")
            return _read(path, index, demuxer)
        except MediaError as problem:
            raise type(problem)(named(index, str(problem))) from problem


def _read(path: Path, index: int, demuxer: str) -> Source:
    with opened(path, demuxer) as container:
        stream = picture_of(container)
        if stream.codec_context is None:
            raise UnsupportedMedia("the picture is in an unknown format; send H.264, H.265, VP8, VP9 or AV1.")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_CLIP_PIXELS:
            raise InvalidMedia(f"the picture has {width}×{height} pixels; send at most {MAX_CLIP_PIXELS}.")
        codec = stream.codec_context.name
        extradata = bytes(stream.codec_context.extradata or b"")
        rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
        time_base = stream.time_base or Fraction(1, 1000)
        has_sound = bool(container.streams.audio)
        if has_sound and container.streams.audio[0].codec_context is None:
            raise UnsupportedMedia("the sound is in an unknown format; send AAC, MP3, Opus, Vorbis or FLAC.")
        if has_sound:
            check_sound(container.streams.audio[0].sample_rate, container.streams.audio[0].channels)
        has_alpha = stream.metadata.get("alpha_mode") == "1"
        is_deep = False
        expected = len(stream.index_entries) if demuxer == "mov" else 0
        stream.thread_type = "SLICE"
        pts, keys, shown, look, end = array("q"), bytearray(), array("q"), None, 0
        for number, packet in enumerate(container.demux(stream)):
            if number > MAX_CLIP_FRAMES:
                raise InvalidMedia(f"the clip has more than {MAX_CLIP_FRAMES} frames; send a shorter one.")
            if packet.is_corrupt:
                raise InvalidMedia("the file is cut off; send it whole.")
            if look is None:
                for frame in stream.decode(packet)[:1]:
                    look = look_of(frame, stream.sample_aspect_ratio)
                    has_alpha = has_alpha or any(part.is_alpha for part in frame.format.components)
                    is_deep = any(part.bits > 8 for part in frame.format.components)
            time = packet.pts if packet.pts is not None else packet.dts
            if not packet.size or time is None:
                continue
            pts.append(time)
            keys.append(packet.is_keyframe)
            if not packet.is_discard:
                shown.append(time)
                end = max(end, time + (packet.duration or 0)) if len(shown) > 1 else time + (packet.duration or 0)
    if look is None or not shown:
        raise InvalidMedia("the clip has no frame that can be decoded; send one that plays.")
    if len(pts) < expected:
        raise InvalidMedia("the file is cut off; send it whole.")
    _check_shown(look)
    shown = array("q", sorted(shown))
    rate, mean_rate, length = _timing(shown, end, time_base, [rate for rate in rates if rate])
    if length > MAX_CLIP_SECONDS:
        raise MediaTooLong(f"the clip lasts {float(length):.0f} s; send at most {MAX_CLIP_SECONDS} s.")
    return Source(
        index=index,
        path=path,
        demuxer=demuxer,
        codec=codec,
        extradata=extradata,
        look=look,
        has_sound=has_sound,
        has_alpha=has_alpha,
        is_deep=is_deep,
        time_base=time_base,
        start=shown[0] * time_base,
        length=length,
        pts=pts,
        keys=keys,
        frames=len(shown),
        trimmed=len(shown) < len(pts),
        rate=rate,
        mean_rate=mean_rate,
    )


def check_sound(rate: int, channels: int) -> None:
    """Refuse sound of which a moment could fill the memory once it is brought to our rate.

    Raises:
        InvalidMedia: an impossible rate, or too many channels.
    """
    if not MIN_RATE <= rate <= MAX_RATE or not 1 <= channels <= MAX_CHANNELS:
        raise InvalidMedia(
            f"the sound has {rate} samples a second in {channels} channels; {MIN_RATE} to {MAX_RATE} in 1 to "
            f"{MAX_CHANNELS} are accepted."
        )


def _check_shown(look: Look) -> None:
    width, height = look.shown
    if max(width, height) > MAX_CLIP_SIDE or width * height > MAX_CLIP_PIXELS:
        raise InvalidMedia(
            f"the picture is shown with {width}×{height} square pixels; send at most {MAX_CLIP_PIXELS}, "
            f"{MAX_CLIP_SIDE} a side."
        )


def look_of(frame: av.VideoFrame, aspect: Fraction | None) -> Look:
    """How `frame` is stored; `aspect` is the shape of one pixel by the container."""
    matrix = UPRIGHT
    side_data = cast(Mapping[Type, Buffer], frame.side_data)
    if Type.DISPLAYMATRIX in side_data:
        values = memoryview(bytes(side_data[Type.DISPLAYMATRIX])).cast("i")
        signs = [(value > 0) - (value < 0) if abs(value) > 1 << 15 else 0 for value in values]
        matrix = (signs[0], signs[1], signs[3], signs[4])
    colours = (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range)
    return Look(
        frame.width,
        frame.height,
        frame.format.name,
        Fraction(aspect) if aspect else Fraction(1),
        (int(colours[0]), int(colours[1]), int(colours[2]), int(colours[3])),
        matrix,
    )


def _timing(
    shown: array[int], end: int, time_base: Fraction, rates: list[Fraction]
) -> tuple[Fraction | None, Fraction, Fraction]:
    """The constant rate if there is one, the mean rate, and the length in seconds."""
    frames = len(shown)
    length = (end - shown[0]) * time_base
    if end - shown[-1] <= 1 and frames > 1:
        length = (shown[-1] - shown[0]) * time_base * Fraction(frames, frames - 1)
    if length <= 0:
        length = 1 / rates[0] if rates else Fraction(1, 25)
    if frames == 1:
        rates = [1 / length]
    for rate in [near for rate in rates for near in _NTSC_RATES if abs(rate / near - 1) < Fraction(1, 20_000)] + rates:
        if _is_constant(shown, time_base, rate) and abs(frames / rate - length) <= max(1 / (4 * rate), 2 * time_base):
            return rate, rate, frames / rate
    return None, frames / length, length


def _is_constant(shown: array[int], time_base: Fraction, rate: Fraction) -> bool:
    """Whether every frame is where `rate` has it, give or take one unit of time and less than a quarter of a frame."""
    unit = time_base * rate
    up, down = unit.numerator, unit.denominator
    tolerance = min(up, down // 4)
    return all(abs((time - shown[0]) * up - place * down) <= tolerance for place, time in enumerate(shown))
