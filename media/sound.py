"""A caller's sound as samples: whatever they send, 48 kHz in stereo comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from media.clip import SAMPLE_RATE
from media.errors import InvalidMedia, MediaTooLong, NoSound, UnsupportedMedia
from media.opening import Source, opened

if TYPE_CHECKING:
    import av
    import numpy as np
    import numpy.typing as npt

    Samples: TypeAlias = npt.NDArray[np.float32]

MAX_CHANNELS = 8
MIN_RATE, MAX_RATE = 4_000, 384_000

_CODECS = frozenset({"aac", "alac", "flac", "mp3", "mp3float", "mp2", "mp2float", "opus", "libopus", "vorbis"})
_PADDING = 4096
"""Samples; more than any encoder adds behind the end to fill its last frame."""
_CUT_OFF = SAMPLE_RATE // 10
"""Samples that may be missing of what the header declares."""


def decode(source: Source, *, max_seconds: float, max_bytes: int, cut: bool = False) -> Samples:
    """The sound of an audio file, or of a video's sound track, as float32 in -1…1, shape (2, n), at 48 kHz.

    Starts at 0: what an encoder put before the sound, and behind it, is dropped where the container tells it (MP4, Ogg,
    WebM, MP3 with a LAME tag; bare ADTS cannot). A sound track starts where the picture does. `cut` takes the first
    `max_seconds` of a longer file. Memory is that of the result and as much again, however long a file says it is.

    Raises:
        UnsupportedMedia: of none of the formats or codecs taken.
        InvalidMedia: empty, broken, cut off, too large, or of impossible rate or channels; NoSound: nothing to hear.
        MediaTooLong: longer than `max_seconds`, without `cut`.
    """
    import numpy as np

    most = round(max_seconds * SAMPLE_RATE)
    parts: list[Samples] = []
    count = 0
    with opened(source, "audio", max_bytes) as (container, mime_type):
        if not container.streams.audio:
            raise NoSound("The file has no audio track; send one that has.")
        stream = container.streams.audio[0]
        _check(stream)
        declared = None
        if mime_type in ("audio/mp4", "audio/flac", "audio/wav") and stream.duration is not None and stream.time_base:
            declared = round(stream.duration * stream.time_base * SAMPLE_RATE)
        offset = ahead = 0
        for part, start in _resampled(container, stream):
            if start is not None:
                offset = ahead = start
                if start > 0:
                    parts.append(np.zeros((2, min(start, most + 1)), np.float32))
                    count = parts[0].shape[1]
            kept = part[:, -ahead:] if ahead < 0 else part
            ahead = min(0, ahead + part.shape[1])
            parts.append(kept)
            count += kept.shape[1]
            if count > most:
                break
    if not count:
        raise NoSound("The audio track is empty; send one with sound in it.")
    if count > most and not cut:
        raise MediaTooLong(f"The audio lasts longer than {max_seconds:g} seconds; send a shorter one.")
    if declared is not None and count <= most:
        declared += offset
        if declared - count > _CUT_OFF:
            told, got = declared / SAMPLE_RATE, count / SAMPLE_RATE
            raise InvalidMedia(
                f"The audio is cut off: it declares {told:.2f} s and has {got:.2f} s. Send the whole file."
            )
        if count - declared <= _PADDING:
            count = min(count, declared)
    samples = np.concatenate(parts, 1)[:, : min(count, most)]
    np.nan_to_num(samples, copy=False, nan=0.0, posinf=1.0, neginf=-1.0)
    return samples.clip(-1, 1, out=samples)


def _check(stream: av.AudioStream) -> None:
    # PyAV has no context for a codec that its FFmpeg cannot decode, whatever its types say.
    name = getattr(stream.codec_context, "name", "unknown")
    if name not in _CODECS and not name.startswith("pcm_"):
        raise UnsupportedMedia(f"The audio codec {name} is not supported; convert it to WAV, FLAC, AAC, MP3 or Opus.")
    _check_shape(stream.sample_rate, stream.channels)


def _check_shape(rate: int, channels: int) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise InvalidMedia(f"The audio has {rate} samples a second; {MIN_RATE} to {MAX_RATE} are accepted.")
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidMedia(f"The audio has {channels} channels; 1 to {MAX_CHANNELS} are accepted.")


def _resampled(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[tuple[Samples, int | None]]:
    """Pieces of the sound, the first with where it starts beside the picture, in samples."""
    import av

    start: int | None = None
    resampler, shape = None, None
    for frame in _frames(container, stream):
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != shape:
            _check_shape(frame.sample_rate, frame.layout.nb_channels)
            if resampler is None:
                start = _start(container, frame)
            else:
                yield from ((_stereo(each), None) for each in resampler.resample(None))
            # Mixed to stereo by FFmpeg, one channel would lose 3 dB.
            layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
            resampler, shape = av.AudioResampler("fltp", layout, SAMPLE_RATE), found
        assert resampler is not None
        frame.pts = None
        for each in resampler.resample(frame):
            yield _stereo(each), start
            start = None
    if resampler is not None:
        for each in resampler.resample(None):
            yield _stereo(each), start
            start = None


def _stereo(frame: av.AudioFrame) -> Samples:
    import numpy as np

    samples = frame.to_ndarray().astype(np.float32, copy=False)
    return np.repeat(samples, 2, 0) if samples.shape[0] == 1 else samples


def _start(container: av.container.InputContainer, frame: av.AudioFrame) -> int:
    """Where the sound starts after the picture, in samples; 0 without one."""
    from av.stream import Disposition

    pictures = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not pictures or frame.time is None or pictures[0].start_time is None or pictures[0].time_base is None:
        return 0
    return round((frame.time - float(pictures[0].start_time * pictures[0].time_base)) * SAMPLE_RATE)


def _frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """What can be decoded. What cannot is skipped at either end, where players skip it too, and told in the middle."""
    import av

    heard, broken = False, False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            broken = heard
            continue
        if frames and broken:
            raise InvalidMedia("The audio is broken in the middle; export it again.")
        heard = heard or bool(frames)
        yield from frames
