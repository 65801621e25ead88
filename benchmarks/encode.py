"""How much more CPU does our mp4 take than the ffmpeg command at the same settings, from the same raw frames and sound?"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from PIL import Image

import killatamata
from benchmarks.measuring import ROUNDS, SCALE, scaled
from benchmarks.results import Result, Skipped
from killatamata.embedded_postgres import EmbeddedPostgres
from media.clip import CHUNK_FRAMES, SAMPLE_RATE, sound_samples
from media.video import CRF, PRESET, SOUND_BITS, VideoWriter

FRAMES = scaled(150, least=3)
FPS = Fraction(30)
WIDTH, HEIGHT = (1280, 704) if SCALE >= 1 else (128, 96)
LIMIT = 1.0

_PHOTOGRAPH = Path(killatamata.__file__).parent / "photographs" / "coffee.jpg"


async def video_encode(_postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """CPU seconds of the whole file, sound and moving of the moov included.

    We have the frames in memory, where models leave them; the command has to start, and to read them from a file.
    """
    command = ffmpeg()
    named = version_of(command)
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        picture, sound = _source(Path(folder))
        frames = np.fromfile(picture, np.uint8).reshape(-1, HEIGHT * 3 // 2, WIDTH)
        samples = np.fromfile(sound, np.float32).reshape(-1, 2).T
        ours, theirs, our_walls, their_walls = [], [], [], []
        for _ in range(ROUNDS + 1):
            began, cpu = time.perf_counter(), time.process_time()
            _write(frames, samples, Path(folder) / "ours.mp4", threads)
            ours.append(time.process_time() - cpu)
            our_walls.append(time.perf_counter() - began)
            began, cpu = time.perf_counter(), _children()
            _run(command, picture, sound, Path(folder) / "theirs.mp4", threads)
            theirs.append(_children() - cpu)
            their_walls.append(time.perf_counter() - began)
    versus = f"{named}, {PRESET}, crf {CRF}, {WIDTH}x{HEIGHT}, {FRAMES} frames, stereo AAC"
    yield Result("video_encode.cpu", median(ours[1:]), "s", versus, median(theirs[1:]), "lower", LIMIT)
    per_second = (FRAMES / median(walls[1:]) for walls in (our_walls, their_walls))
    yield Result("video_encode.frames", next(per_second), "frames/s", versus, next(per_second), "higher")


def ffmpeg() -> str:
    """The system's, or the one of the package imageio-ffmpeg.

    Raises:
        Skipped: there is neither.
    """
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        raise Skipped("there is no ffmpeg to compare with: install the extra bench") from None
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def version_of(command: str) -> str:
    told = subprocess.run([command, "-version"], check=True, capture_output=True, text=True).stdout
    return " ".join(told.split()[:3])


def _source(folder: Path) -> tuple[Path, Path]:
    """Raw I420 frames of a photograph that moves under grain, and raw sound."""
    with Image.open(_PHOTOGRAPH) as photograph:
        large = photograph.convert("YCbCr").resize((WIDTH + 256, HEIGHT), Image.Resampling.LANCZOS)
    still = np.asarray(large, np.float32)
    random = np.random.default_rng(1)
    picture, sound = folder / "picture.yuv", folder / "sound.f32"
    with picture.open("wb") as file:
        for index in range(FRAMES):
            here = still[:, index * 3 % 256 :][:, :WIDTH]
            luma = here[..., 0] * (219 / 255) + 16 + random.normal(0, 2, here.shape[:2])
            file.write(luma.clip(16, 235).astype(np.uint8).tobytes())
            for channel in (1, 2):
                means = here[..., channel].reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))
                file.write(((means - 128) * (224 / 255) + 128).astype(np.uint8).tobytes())
    steps = np.arange(sound_samples(FRAMES, FPS)) / SAMPLE_RATE
    tone = 0.3 * np.sin(2 * np.pi * 220 * steps) + random.normal(0, 0.01, steps.size)
    sound.write_bytes(np.stack((tone, tone), 1).astype("<f4").tobytes())
    return picture, sound


def _write(frames: npt.NDArray[np.uint8], samples: npt.NDArray[np.float32], target: Path, threads: int) -> None:
    """Our side: chunks as they come from a model."""
    with VideoWriter(target, width=WIDTH, height=HEIGHT, fps=FPS, sound=samples, threads=threads) as writer:
        for start in range(0, FRAMES, CHUNK_FRAMES):
            writer.write(frames[start : start + CHUNK_FRAMES])


def _run(command: str, picture: Path, sound: Path, target: Path, threads: int) -> None:
    """The other side: the same by the command."""
    frames = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", str(picture)]
    samples = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", "2", "-i", str(sound)]
    h264 = ["-c:v", "libx264", "-preset", PRESET, "-crf", str(CRF), "-profile:v", "high", "-g", str(round(FPS))]
    # Given as options of the encoder, FFmpeg 7 and later would convert the colours, not tag them.
    colours = ["-vf", "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"]
    aac = ["-c:a", "aac", "-b:a", str(SOUND_BITS)]
    end = ["-threads", str(threads), "-movflags", "+faststart", "-y", str(target)]
    subprocess.run([command, "-v", "error", *frames, *samples, *h264, *colours, *aac, *end], check=True)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
