"""What a caller's video is, before anything is done with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from media import kinds
from media.errors import InvalidMedia, MediaTooLong, NoPicture, UnsupportedMedia
from media.opening import MAX_PIXELS, opened

if TYPE_CHECKING:
    import av

Hdr: TypeAlias = Literal["pq", "hlg"]

MAX_BYTES = kinds.MAX_BYTES["video"]
MAX_SIDE = 8192
MAX_SECONDS = 3600
MAX_RATE = 1000
"""Frames a second."""
CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "prores"})
"""By FFmpeg's names."""

_DECODERS = {"libdav1d": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}
_TRANSFERS: dict[int, Hdr] = {16: "pq", 18: "hlg"}
"""Transfer characteristics of HDR (ITU-T H.273, table 3)."""
_FULL_RANGE = 2
"""FFmpeg's AVCOL_RANGE_JPEG."""
_MAX_FRAMES = MAX_SECONDS * 240
_NTSC = Fraction(1000, 1001)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video as it is shown.

    `width` and `height` are in square pixels, upright; `coded_width` and `coded_height` those of its frames, which are to
    be turned by `rotation` degrees clockwise (0, 90, 180 or 270) and to be stretched by `pixel_aspect` before that.
    `rate` is the exact rate of frames when they are evenly spaced, or the mean when `variable`. `frames` were counted;
    those that an edit list hides are none. `start` and `duration` are seconds: of the first frame, and from it to the end
    of the last. `bit_depth` is that of a channel. `hdr` is its transfer curve, if it has one. `alpha` says that pixels
    are transparent. `colours` are primaries, transfer and matrix (ITU-T H.273; 2 is unknown), `full_range` those levels.
    `audio_codec` and `sample_rate` are of the first audio track.
    """

    container: Literal["mp4", "webm"]
    codec: str
    pix_fmt: str
    bit_depth: int
    width: int
    height: int
    coded_width: int
    coded_height: int
    pixel_aspect: Fraction
    rotation: int
    rate: Fraction
    variable: bool
    frames: int
    start: Fraction
    duration: Fraction
    colours: tuple[int, int, int]
    full_range: bool
    hdr: Hdr | None
    alpha: bool
    has_audio: bool
    audio_codec: str | None
    sample_rate: int | None


def probe(path: Path) -> VideoInfo:
    """What the video at `path` is. Reads the whole file, decodes one frame.

    Raises:
        UnsupportedMedia: neither MP4 nor WebM, or of a codec that is not taken.
        InvalidMedia: empty, broken, cut off, or beyond the limits; NoPicture: no video track, or no frame in it.
        MediaTooLong: more than an hour.
    """
    with opened(path, "video", MAX_BYTES) as (container, mime_type):
        stream = _picture(container)
        codec = _codec(stream)
        _check_size(stream.width, stream.height)
        voices = [each for each in container.streams.audio if getattr(each, "codec_context", None)]
        aspect = stream.sample_aspect_ratio or Fraction(1)
        declared, guesses, tick = stream.frames, [stream.average_rate, stream.guessed_rate], stream.time_base
        alpha_mode = {name.lower(): value for name, value in stream.metadata.items()}.get("alpha_mode") == "1"
        audio_codec = voices[0].codec_context.name if voices else None
        sample_rate = voices[0].sample_rate if voices else None
        if tick is None:
            raise InvalidMedia("The video has no time base; export it again.")
        first, times, total = None, [], 0
        for packet in container.demux(stream):
            if first is None:
                first = next(iter(packet.decode()), None)
            if not packet.size:
                continue
            total += 1
            if _is_shown(packet, codec):
                if packet.pts is None:
                    raise InvalidMedia("A frame of the video has no time stamp; export it again.")
                times.append((packet.pts, packet.duration or 0))
            if total > _MAX_FRAMES:
                raise InvalidMedia(f"The video has more than {_MAX_FRAMES} frames; send a shorter one.")
        if not times:
            raise NoPicture("The video track has no frames; send a video that has.")
        if total < declared:
            raise InvalidMedia(
                f"The video is cut off: it declares {declared} frames and has {total}. Send the whole file."
            )
        if first is None:
            raise InvalidMedia("The first frame of the video cannot be decoded; export it again.")
        rotation = round(-first.rotation / 90) * 90 % 360
        pix_fmt, depth = first.format.name, max(each.bits for each in first.format.components)
        colours = (int(first.color_primaries), int(first.color_trc), int(first.colorspace))
        full_range, size = int(first.color_range) == _FULL_RANGE, (first.width, first.height)
    _check_size(*size)
    times.sort()
    rate, variable = _rate([time for time, _ in times], tick, [guess for guess in guesses if guess])
    last = times[-1][1] * tick or 1 / rate
    duration = (times[-1][0] - times[0][0]) * tick + last if variable else len(times) / rate
    if duration > MAX_SECONDS:
        raise MediaTooLong(f"The video lasts {float(duration):.0f} s; at most {MAX_SECONDS} s are accepted.")
    width, height = _displayed(*size, aspect, rotation)
    _check_size(width, height)
    return VideoInfo(
        container="mp4" if mime_type == "video/mp4" else "webm",
        codec=codec,
        pix_fmt=pix_fmt,
        bit_depth=depth,
        width=width,
        height=height,
        coded_width=size[0],
        coded_height=size[1],
        pixel_aspect=aspect,
        rotation=rotation,
        rate=rate,
        variable=variable,
        frames=len(times),
        start=times[0][0] * tick,
        duration=duration,
        colours=colours,
        full_range=full_range,
        hdr=_TRANSFERS.get(colours[1]),
        alpha=alpha_mode or pix_fmt.startswith(("yuva", "rgba", "gbrap", "argb", "bgra")),
        has_audio=bool(voices),
        audio_codec=audio_codec,
        sample_rate=sample_rate,
    )


def _picture(container: av.container.InputContainer) -> av.VideoStream:
    """The first video track that is no cover picture."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise NoPicture("The file has no video track; send a video that has.")


def _codec(stream: av.VideoStream) -> str:
    # PyAV has no context for a codec that its FFmpeg cannot decode, whatever its types say.
    name = getattr(stream.codec_context, "name", "unknown")
    name = _DECODERS.get(name, name)
    if name not in CODECS:
        raise UnsupportedMedia(f"The video codec {name} is not supported; convert it to H.264, H.265, VP9 or AV1.")
    return name


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise InvalidMedia("The video does not tell its size; it is broken or cut off.")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InvalidMedia(
            f"The video has {width}x{height} pixels; at most {MAX_PIXELS} are accepted, {MAX_SIDE} a side."
        )


def _is_shown(packet: av.Packet[av.VideoStream], codec: str) -> bool:
    """Whether a frame is seen of it: not what an edit list hides, nor VP8's invisible frames (RFC 6386, section 9.1)."""
    return not packet.is_discard and (codec != "vp8" or bool(bytes(packet)[0] & 0x10))


def _displayed(width: int, height: int, aspect: Fraction, rotation: int) -> tuple[int, int]:
    """The size in square pixels, upright: the longer way of the pixel is kept, the other stretched to it."""
    if aspect > 1:
        width = max(1, round(width * aspect))
    elif 0 < aspect < 1:
        height = max(1, round(height / aspect))
    return (height, width) if rotation in (90, 270) else (width, height)


def _rate(times: list[int], tick: Fraction, guesses: list[Fraction]) -> tuple[Fraction, bool]:
    """The rate of frames at the ascending `times` in units of `tick` seconds, and whether they are unevenly spaced.

    Evenly spaced is what one rate explains up to the rounding of time stamps, which in WebM are milliseconds.
    """
    count, span = len(times) - 1, times[-1] - times[0]
    if not count or not span:
        return (guesses[0] if guesses else Fraction(25)), False
    mean = count / (span * tick)
    if mean > MAX_RATE:
        raise InvalidMedia(f"The video has {float(mean):.0f} frames a second; at most {MAX_RATE} are accepted.")
    for rate in _likely(mean, guesses):
        step, scale = (tick * rate).as_integer_ratio()
        if all(abs((time - times[0]) * step - index * scale) <= step for index, time in enumerate(times)):
            return rate, False
    return mean, True


def _likely(mean: Fraction, guesses: list[Fraction]) -> Iterator[Fraction]:
    whole = Fraction(max(1, round(mean)))
    yield from sorted(
        {*guesses, whole, whole * _NTSC, Fraction(max(1, round(mean / _NTSC))) * _NTSC},
        key=lambda rate: abs(rate - mean),
    )
    yield mean
