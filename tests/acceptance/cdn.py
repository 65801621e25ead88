"""What stands in for cdn.example.com: one file of each kind, whatever name is asked for; none of other kinds."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import av
import numpy as np
from PIL import Image

from media.video import VideoWriter

SOURCE = (820, 500)
"""Pixels of the picture."""
CLIP_FRAMES, CLIP_FPS = 40, 25
SOUND_SECONDS = 4


def picture() -> bytes:
    """A JPEG of `SOURCE` pixels."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize(SOURCE).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def tone(seconds: float) -> Any:
    """A quiet sine, float32 (2, n) at 48 kHz."""
    time = np.arange(round(seconds * 48_000)) / 48_000
    return (0.25 * np.sin(2 * np.pi * 330 * time)).astype(np.float32)[None].repeat(2, 0)


def sound() -> bytes:
    """A sine of `SOUND_SECONDS` as Ogg Opus."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="stereo")
        samples = tone(SOUND_SECONDS)
        for start in range(0, samples.shape[1], 960):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[:, start : start + 960].T.reshape(1, -1)), format="flt", layout="stereo"
            )
            frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def clip() -> bytes:
    """`CLIP_FRAMES` frames at `CLIP_FPS` with a sine: an mp4 of our own kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with VideoWriter(
            path, width=320, height=192, fps=Fraction(CLIP_FPS), sound=tone(CLIP_FRAMES / CLIP_FPS)
        ) as writer:
            for number in range(CLIP_FRAMES):
                planes = np.full((1, 288, 320), 128, np.uint8)
                planes[:, :192] = np.arange(320) // 2 + 16 + number
                writer.write(planes)
        return path.read_bytes()


@cache
def files() -> Mapping[str, bytes]:
    """By ending."""
    return {"webp": picture(), "png": picture(), "jpg": picture(), "opus": sound(), "mp3": sound(), "mp4": clip()}


@contextmanager
def serving() -> Iterator[str]:
    """The URL of the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files().get(self.path.rpartition(".")[2])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
