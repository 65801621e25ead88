"""The checkpoint of a video: intra-only H.264 in Matroska, written and read as a stream, and its sound as FLAC."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from media.clip import CHUNK_FRAMES, SAMPLE_RATE
from media.errors import MezzanineBroken
from media.frames import BT709, LIMITED, check_canvas, check_chunk, default_threads, frame_of, planes_into

if TYPE_CHECKING:
    import av
    import numpy as np
    import numpy.typing as npt

    Planes: TypeAlias = npt.NDArray[np.uint8]
    Samples: TypeAlias = npt.NDArray[np.float32]

MIME_TYPE = "video/x-matroska"
SOUND_MIME_TYPE = "audio/flac"

# Measured in docs/decisions/0033-pyav.md.
_OPTIONS = {"preset": "ultrafast", "qp": "10", "x264-params": "keyint=1:ipratio=1"}
_FULL_SCALE = 1 << 23
"""Of samples of 24 bits."""


class Writable(Protocol):
    """All that a target of bytes must do."""

    def write(self, data: bytes, /) -> object:
        """Take `data` after what was written before."""


class Readable(Protocol):
    """All that a source of bytes must do."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, `size` at most; none at the end."""


class _Sink:
    """Bytes on their way to `file`, which is neither sought nor closed. Once shut, nothing reaches it any more."""

    def __init__(self, file: Writable) -> None:
        self._file = file
        self.closed = False

    def write(self, data: bytes) -> int:
        if not self.closed:
            try:
                self._file.write(data)
            except BaseException:
                self.closed = True
                raise
        return len(data)


class _Source:
    """Bytes of `file`, which is neither sought nor closed."""

    def __init__(self, file: Readable) -> None:
        self.read = file.read


class MezzanineWriter:
    """Writes frames to `file`, of which only `write(bytes)` is used, and never more than forward. `frames` counts them.

    As a context manager it closes, or after an exception aborts. Held in memory: a few frames. `file` stays open.
    """

    def __init__(self, file: Writable, width: int, height: int, fps: Fraction, *, threads: int | None = None) -> None:
        """Ready for frames of `width` x `height` pixels; `threads` of the encoder, by default `default_threads`.

        Raises:
            ValueError: the canvas or the rate cannot be.
        """
        import av

        check_canvas(width, height)
        if fps <= 0:
            raise ValueError(f"{fps} frames a second: a positive rate needed")
        self.frames = 0
        self._size = (width, height)
        self._tick = 1 / fps
        self._sink = _Sink(file)
        self._container = av.open(self._sink, "w", format="matroska", options={"fflags": "+bitexact"})
        self._stream = self._container.add_stream("libx264", rate=fps, options=dict(_OPTIONS))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        context = self._stream.codec_context
        context.time_base = self._tick
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED
        context.thread_count = threads or default_threads()
        context.thread_type = "FRAME"

    def write(self, chunk: Planes) -> None:
        """Add the frames of `chunk`, uint8 (n, height * 3 / 2, width).

        Raises:
            ValueError: the chunk is of another shape, or the writer closed.
        """
        self._check_open()
        check_chunk(chunk, *self._size)
        for planes in chunk:
            frame = frame_of(planes)
            frame.pts, frame.time_base = self.frames, self._tick
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Write what is still held back. Whatever follows is refused."""
        self._check_open()
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        finally:
            self._sink.closed = True

    def abort(self) -> None:
        """Write nothing more."""
        if not self._sink.closed:
            self._sink.closed = True
            self._container.close()

    def _check_open(self) -> None:
        if self._sink.closed:
            raise ValueError("this mezzanine is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.abort()
        elif not self._sink.closed:
            self.close()


def read(file: Readable, *, frames: int | None = None, threads: int | None = None) -> Iterator[Planes]:
    """The frames of a mezzanine, in order, as chunks of 1 to 16: uint8 (n, height * 3 / 2, width), each a new array.

    `file` is only read forward. Its end cannot be told from a cut between two frames: either give `frames`, how many
    there must be, or count them. `threads` are the decoder's, by default `default_threads`.

    Raises:
        MezzanineBroken: the file is cut off or foreign, or has another number of frames.
    """
    import av
    import numpy as np

    held: Planes | None = None
    count = total = 0
    try:
        with av.open(_Source(file), "r", format="matroska") as container:
            stream = _picture(container)
            stream.codec_context.thread_type = "FRAME"
            stream.codec_context.thread_count = threads or default_threads()
            for frame in container.decode(stream):
                if frame.is_corrupt or (frame.width, frame.height) != (stream.width, stream.height):
                    raise MezzanineBroken(f"the mezzanine's frame {total} is broken")
                if held is None:
                    held = np.empty((CHUNK_FRAMES, frame.height * 3 // 2, frame.width), np.uint8)
                planes_into(frame, held[count])
                count, total = count + 1, total + 1
                if count == CHUNK_FRAMES:
                    yield held
                    held, count = None, 0
    except av.FFmpegError as error:
        raise MezzanineBroken(f"the mezzanine cannot be read after {total} frames: {error}") from error
    if held is not None:
        yield held[:count]
    if not total or (frames is not None and frames != total):
        raise MezzanineBroken(f"the mezzanine has {total} frames, {frames if frames is not None else 'some'} expected")


def _picture(container: av.container.InputContainer) -> av.VideoStream:
    streams = container.streams.video
    if len(streams) != 1 or streams[0].codec_context.name != "h264" or streams[0].pix_fmt != "yuv420p":
        raise MezzanineBroken("this is none of our mezzanines: Matroska with one H.264 track in yuv420p expected")
    return streams[0]


def flac(samples: Samples) -> bytes:
    """`samples`, float32 (2, n) at 48 kHz, as FLAC of 24 bits; what is beyond -1…1 is clipped.

    Raises:
        ValueError: the samples have another shape, or there are none.
    """
    import av
    import numpy as np

    if samples.ndim != 2 or samples.shape[0] != 2 or not samples.shape[1]:
        raise ValueError(f"samples are of shape {samples.shape}: (2, n) with n > 0 needed")
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="stereo", format="s32")
        for start in range(0, samples.shape[1], SAMPLE_RATE):
            scaled = np.rint(samples[:, start : start + SAMPLE_RATE].T * np.float64(_FULL_SCALE))
            levels = scaled.clip(-_FULL_SCALE, _FULL_SCALE - 1).astype(np.int32) << 8
            frame = av.AudioFrame.from_ndarray(levels.reshape(1, -1), format="s32", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def unflac(data: bytes) -> Samples:
    """The samples that `flac` was given, float32 (2, n) at 48 kHz, to 24 bits.

    Raises:
        MezzanineBroken: cut off, or not of `flac`.
    """
    import av
    import numpy as np

    parts: list[npt.NDArray[Any]] = []
    try:
        with av.open(io.BytesIO(data), "r", format="flac") as container:
            stream = container.streams.audio[0]
            if stream.rate != SAMPLE_RATE or stream.channels != 2:
                raise MezzanineBroken("this is none of our sounds: 48 kHz in stereo expected")
            declared = stream.duration
            parts.extend(frame.to_ndarray().reshape(-1, 2).T for frame in container.decode(stream))
    except (av.FFmpegError, IndexError) as error:
        raise MezzanineBroken(f"the sound of the mezzanine cannot be read: {error}") from error
    levels = np.concatenate(parts, 1) if parts else np.empty((2, 0), np.int32)
    if levels.shape[1] != declared or levels.dtype != np.int32:
        raise MezzanineBroken(f"the sound of the mezzanine has {levels.shape[1]} samples, {declared} expected")
    return (levels / np.float64(_FULL_SCALE << 8)).astype(np.float32)
