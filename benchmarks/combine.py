"""How long does joining clips take beside the ffmpeg command, encoding all of them anew, and copying them without a cut?"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from PIL import Image

import killatamata
from benchmarks.encode import ffmpeg, version_of
from benchmarks.measuring import SCALE, scaled
from benchmarks.results import Result
from killatamata.embedded_postgres import EmbeddedPostgres
from media.clip import SAMPLE_RATE, sound_samples
from media.combine import combine
from media.video import CRF, PRESET, SOUND_BITS, VideoWriter

CLIPS, DIFFERENT = scaled(20, least=3), 4
FRAMES = scaled(150, least=30)
FPS = Fraction(25)
OVERLAP_FRAMES = 3
WIDTH, HEIGHT = (1280, 704) if SCALE >= 1 else (128, 96)
ROUNDS = scaled(3)
LIMIT_ENCODED, LIMIT_COPIED = 0.2, 12.0

_PHOTOGRAPH = Path(killatamata.__file__).parent / "photographs" / "coffee.jpg"


async def video_combine(_postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """Wall seconds for the same clips of our own making, without the repeated frames; a copy cannot leave them away."""
    command = ffmpeg()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        different = [_clip(folder / f"{at}.mp4", at) for at in range(min(DIFFERENT, CLIPS))]
        clips = [different[at % len(different)] for at in range(CLIPS)]
        listed = folder / "clips.txt"
        listed.write_text("".join(f"file '{clip}'\n" for clip in clips))
        ours = _timed(lambda: _combined(clips, folder / "ours.mp4"), before=1)
        encoded = _timed(lambda: _run(command, _encoding(clips), folder / "encoded.mp4"))
        copied = _timed(lambda: _run(command, _copying(listed), folder / "copied.mp4"), before=1)
    what = f"{version_of(command)}, {CLIPS} clips of {FRAMES} frames, {WIDTH}x{HEIGHT}"
    versus = f"{what}: concat filter, {PRESET}, crf {CRF}"
    yield Result("video_combine.encoded", ours, "s", versus, encoded, "lower", LIMIT_ENCODED)
    versus = f"{what}: concat demuxer, copied with the repeated frames"
    yield Result("video_combine.copied", ours, "s", versus, copied, "lower", LIMIT_COPIED)


def _timed(work: Callable[[], None], before: int = 0) -> float:
    """The median wall time of the rounds, after so many that do not count."""
    taken = []
    for _ in range(ROUNDS + before):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return median(taken[before:])


def _combined(clips: Sequence[Path], target: Path) -> None:
    made = combine(clips, target, overlap_frames=OVERLAP_FRAMES, overlap_fps=None, frame_rate=None)
    expected = CLIPS * FRAMES - (CLIPS - 1) * OVERLAP_FRAMES
    if made.method != "smart" or made.frames != expected or not made.copied_frames:
        raise RuntimeError(f"the clips were not copied: {made}")


def _encoding(clips: Sequence[Path]) -> Iterator[str]:
    graph = []
    for at, clip in enumerate(clips):
        yield from ("-i", str(clip))
        frames, seconds = (OVERLAP_FRAMES, float(OVERLAP_FRAMES / FPS)) if at else (0, 0.0)
        graph.append(f"[{at}:v]trim=start_frame={frames},setpts=PTS-STARTPTS[v{at}]")
        graph.append(f"[{at}:a]atrim=start={seconds},asetpts=PTS-STARTPTS[a{at}]")
    pairs = "".join(f"[v{at}][a{at}]" for at in range(len(clips)))
    graph.append(f"{pairs}concat=n={len(clips)}:v=1:a=1[v][a]")
    yield from ("-filter_complex", ";".join(graph), "-map", "[v]", "-map", "[a]")
    yield from ("-c:v", "libx264", "-preset", PRESET, "-crf", str(CRF), "-profile:v", "high", "-g", str(round(FPS)))
    yield from ("-c:a", "aac", "-b:a", str(SOUND_BITS))


def _copying(listed: Path) -> Iterator[str]:
    yield from ("-f", "concat", "-safe", "0", "-i", str(listed), "-c", "copy")


def _run(command: str, words: Iterator[str], target: Path) -> None:
    subprocess.run([command, "-v", "error", *words, "-movflags", "+faststart", "-y", str(target)], check=True)


def _clip(path: Path, number: int) -> Path:
    """A clip of a photograph that moves under grain, with a tone."""
    with Image.open(_PHOTOGRAPH) as photograph:
        large = photograph.convert("YCbCr").resize((WIDTH + 512, HEIGHT), Image.Resampling.LANCZOS)
    random = np.random.default_rng(number)
    still = np.asarray(large, np.float32)
    grain = random.normal(0, 2, (HEIGHT + 64, WIDTH + 64)).astype(np.float32)
    steps = np.arange(sound_samples(FRAMES, FPS)) / SAMPLE_RATE
    tone = 0.3 * np.sin(2 * np.pi * 220 * (number + 1) * steps) + random.normal(0, 0.01, steps.size)
    sound = np.stack((tone, tone)).astype(np.float32)
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=FPS, sound=sound) as writer:
        for index in range(FRAMES):
            down, right = random.integers(0, 64, 2)
            here = still[:, (number * 64 + index * 2) % 512 :][:, :WIDTH]
            writer.write(_planes(here, grain[down : down + HEIGHT, right : right + WIDTH])[None])
    return path


def _planes(here: npt.NDArray[np.float32], grain: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """I420 of full-range YCbCr and grain."""
    luma = (here[..., 0] * (219 / 255) + 16 + grain).clip(16, 235)
    colours = (here[..., 1:].reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 2).mean((1, 3)) - 128) * (224 / 255) + 128
    flat = (luma, colours[..., 0], colours[..., 1])
    return np.concatenate([part.astype(np.uint8).ravel() for part in flat]).reshape(HEIGHT * 3 // 2, WIDTH)
