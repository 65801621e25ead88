"""The finished file: H.264 and AAC in an mp4 that plays everywhere, starts at once and is cheap to cut."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from math import lcm
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias
from uuid import UUID

from media.clip import SAMPLE_RATE, sound_samples
from media.frames import BT709, LIMITED, check_canvas, check_chunk, default_threads, frame_of

if TYPE_CHECKING:
    import av
    import numpy as np
    import numpy.typing as npt

    Planes: TypeAlias = npt.NDArray[np.uint8]
    Samples: TypeAlias = npt.NDArray[np.float32]

MIME_TYPE = "video/mp4"
PRESET = "veryfast"
CRF = 18
SOUND_BITS = 192_000
"""A second."""
XMP_BOX = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac")
TAGS = frozenset({"title", "artist", "album", "date", "comment", "copyright", "description", "genre", "synopsis"})
"""The metadata that an mp4 has a place for (FFmpeg's mov muxer drops all others without a word)."""


def configure(
    context: av.VideoCodecContext, *, width: int, height: int, fps: Fraction, threads: int | None = None
) -> None:
    """Set up a libx264 encoder as all our mp4s are made: what it makes fits between packets of such files.

    H.264 High, yuv420p, BT.709 in limited range, closed groups of a second at most. Frame threads, which cost no quality
    where slices do; `threads` of them, by default `default_threads`.
    """
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.framerate, context.time_base = fps, 1 / fps
    context.gop_size = max(1, round(fps))
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = LIMITED
    context.thread_count = threads or default_threads()
    context.thread_type = "FRAME"
    context.options = {"preset": PRESET, "crf": str(CRF), "profile": "high"}


class VideoWriter:
    """Writes an mp4 of `width` x `height` pixels at `fps` to `path`, which appears whole at `close` and not before.

    As a context manager it closes, or after an exception aborts. Held in memory: what x264 looks ahead, some 50 frames.
    `frames` counts those written.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        fps: Fraction,
        source_width: int | None = None,
        source_height: int | None = None,
        sound: Samples | None = None,
        metadata: Mapping[str, str] | None = None,
        xmp: bytes | None = None,
        threads: int | None = None,
    ) -> None:
        """Ready for frames of `source_width` x `source_height` pixels, by default those of the file; others are scaled.

        `sound` is float32 (2, n) at 48 kHz, cut or followed by silence to the picture's length; None is silence.
        `metadata` has some of `TAGS`, `xmp` is a packet of more. `threads` are the encoder's,
        by default `default_threads`.

        Raises:
            ValueError: a canvas, the rate, the sound or the metadata cannot be.
        """
        import av
        import numpy as np

        self._source = (source_width or width, source_height or height)
        self._size = (width, height)
        check_canvas(*self._source)
        check_canvas(*self._size)
        if fps <= 0:
            raise ValueError(f"{fps} frames a second: a positive rate needed")
        if sound is not None and (sound.ndim != 2 or sound.shape[0] != 2):
            raise ValueError(f"sound is of shape {sound.shape}: (2, n) needed")
        if unknown := (metadata or {}).keys() - TAGS:
            raise ValueError(f"metadata {', '.join(sorted(unknown))}: use some of {', '.join(sorted(TAGS))}")
        self.path = path
        self.frames = 0
        self.samples = 0
        self._fps = fps
        self._xmp = xmp
        self._sound = np.empty((2, 0), np.float32) if sound is None else sound
        self._scaler = av.video.reformatter.VideoReformatter()
        self._part = path.with_name(f"{path.name}.part")
        self._open = True
        # An edit list counts in the movie's time scale: in FFmpeg's milliseconds the sound would not end where it does.
        scale = lcm(SAMPLE_RATE, fps.numerator)
        options = {
            "movflags": "+faststart",
            "movie_timescale": str(scale if scale < 1 << 31 else SAMPLE_RATE),
            "fflags": "+bitexact",
        }
        self._container = av.open(str(self._part), "w", format="mp4", options=options)
        self._container.metadata.update(metadata or {})
        self._picture = self._container.add_stream("libx264", rate=fps)
        configure(self._picture.codec_context, width=width, height=height, fps=fps, threads=threads)
        self._voice = self._container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        self._voice.bit_rate = SOUND_BITS

    def write(self, chunk: Planes) -> None:
        """Add the frames of `chunk`, uint8 (n, source height * 3 / 2, source width), and the sound beside them.

        Raises:
            ValueError: the chunk is of another shape, or the writer closed.
        """
        self._check_open()
        check_chunk(chunk, *self._source)
        for planes in chunk:
            frame = frame_of(planes)
            if self._source != self._size:
                frame = self._scaler.reformat(frame, *self._size, interpolation="LANCZOS", threads=1)
            frame.pts, frame.time_base = self.frames, 1 / self._fps
            self._container.mux(self._picture.encode(frame))
            self.frames += 1
        self._sing(sound_samples(self.frames, self._fps))

    def close(self) -> None:
        """Finish the file and put it at `path`.

        Raises:
            ValueError: nothing was written, or the writer is closed.
        """
        self._check_open()
        if not self.frames:
            self.abort()
            raise ValueError("a video needs at least one frame")
        try:
            self._container.mux(self._picture.encode(None))
            self._container.mux(self._voice.encode(None))
            self._container.close()
            self._append_xmp()
            self._open = False
            self._part.replace(self.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Leave nothing behind."""
        import av

        if self._open:
            self._open = False
            # FFmpeg ends the file even so, and on a full disk cannot.
            with suppress(av.FFmpegError):
                self._container.close()
            self._part.unlink(missing_ok=True)

    def _append_xmp(self) -> None:
        """Add the packet as a box of its own, where its readers look (XMP specification, part 3: MPEG-4)."""
        if self._xmp:
            with self._part.open("ab") as file:
                file.write((24 + len(self._xmp)).to_bytes(4, "big") + b"uuid" + XMP_BOX.bytes + self._xmp)

    def _sing(self, until: int) -> None:
        """Encode the sound up to that sample."""
        import av
        import numpy as np

        while self.samples < until:
            count = min(SAMPLE_RATE, until - self.samples)
            piece = self._sound[:, self.samples : self.samples + count]
            padded = np.zeros((2, count), np.float32)
            padded[:, : piece.shape[1]] = piece
            frame = av.AudioFrame.from_ndarray(padded, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, self.samples, Fraction(1, SAMPLE_RATE)
            self._container.mux(self._voice.encode(frame))
            self.samples += count

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("this video is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.abort()
        elif self._open:
            self.close()
