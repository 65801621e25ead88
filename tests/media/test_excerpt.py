"""The first and the last frames of a file, told by the luma of each."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from media import excerpt
from media.errors import InvalidMedia, MediaError
from media.image import lossless
from media.video import VideoWriter

WIDTH, HEIGHT = 64, 48


def written(path: Path, frames: int, fps: int) -> Path:
    """Frame `n` is of luma 16 + n, all over."""
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=Fraction(fps)) as writer:
        for number in range(frames):
            planes = np.full((1, HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
            planes[:, :HEIGHT] = 16 + number
            writer.write(planes)
    return path


def luma(content: bytes) -> float:
    """Of a grey picture."""
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "WEBP"
        assert picture.size == (WIDTH, HEIGHT)
        return float(np.asarray(picture.convert("RGB")).mean()) * 219 / 255


def test_the_first_frame(tmp_path: Path) -> None:
    planes = excerpt.first_frame(written(tmp_path / "a.mp4", 30, 25))
    assert planes.shape == (1, HEIGHT * 3 // 2, WIDTH)
    assert planes[0, :HEIGHT].mean() == pytest.approx(16, abs=0.6)


def test_a_file_of_ours_may_be_larger_than_what_callers_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.mp4", 3, 25)
    monkeypatch.setattr(excerpt, "MAX_BYTES", {"video": path.stat().st_size - 1})
    assert len(excerpt.first_frame(path)) == 1
    with pytest.raises(InvalidMedia, match="at most"):
        excerpt.last_frames(path, 1, Fraction(25))


@pytest.mark.parametrize(
    ("rate", "fps", "expected"),
    [
        (25, 25, [191, 192, 193, 194, 195, 196, 197, 198, 199]),
        (60, 30, [183, 185, 187, 189, 191, 193, 195, 197, 199]),
        (60, 25, [180, 182, 185, 187, 189, 192, 194, 197, 199]),
    ],
)
def test_the_last_frames_oldest_first(tmp_path: Path, rate: int, fps: int, expected: list[int]) -> None:
    found = excerpt.last_frames(written(tmp_path / "a.mp4", 200, rate), 9, Fraction(fps))
    assert [luma(each) for each in found] == pytest.approx(expected, abs=0.75)


def test_one_frame_is_the_last(tmp_path: Path) -> None:
    (found,) = excerpt.last_frames(written(tmp_path / "a.mp4", 70, 25), 1, Fraction(25))
    assert luma(found) == pytest.approx(69, abs=0.75)


def test_all_frames_there_are(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4", 9, 25)
    assert [luma(each) for each in excerpt.last_frames(path, 9, Fraction(25))] == pytest.approx(range(9), abs=0.75)
    with pytest.raises(InvalidMedia, match="shorter than 10 frames at 25 a second"):
        excerpt.last_frames(path, 10, Fraction(25))


@pytest.mark.parametrize("content", [b"", b"no video", b"\0\0\0\x18ftypisom" + bytes(64)])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError):
        excerpt.first_frame(path)
    with pytest.raises(MediaError):
        excerpt.last_frames(path, 1, Fraction(25))


def test_lossless_is_lossless() -> None:
    pixels: npt.NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    with Image.open(io.BytesIO(lossless(pixels))) as picture:
        assert np.array_equal(np.asarray(picture), pixels)
