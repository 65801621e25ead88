"""Extending a clip: what is asked of the API, which is a double here; clips, frames and sound are real."""

from __future__ import annotations

import io
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from PIL import Image

from killatamata.extension import Extension, NotExtensible, extended, sampled_rate, slice_of
from media import mezzanine
from media.video import VideoWriter
from tests.acceptance.cdn import sound, tone

WIDTH, HEIGHT = 256, 256


def film(path: Path, frames: int, fps: int) -> Path:
    """Frame `n` is of luma 16 + n, all over."""
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=Fraction(fps)) as writer:
        for number in range(frames):
            planes = np.full((1, HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
            planes[:, :HEIGHT] = 16 + number
            writer.write(planes)
    return path


class ApiDouble:
    """A double of the API's client: a key used for something else is refused, a film's URL is signed anew each time.

    Jobs succeed unless their task is `failing`.
    """

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.uploads: dict[str, bytes] = {}
        self.submitted: list[tuple[str, dict[str, Any], str]] = []
        self._signatures = itertools.count()

    async def upload(self, path: Path, mime_type: str, *, idempotency_key: str) -> str:
        url, content = f"https://files.test/{idempotency_key}.{mime_type.partition('/')[2]}", path.read_bytes()
        assert self.uploads.setdefault(url, content) == content, "409 idempotency_conflict"
        return url

    async def submit(self, task: str, given: dict[str, Any], *, idempotency_key: str) -> dict[str, Any]:
        keys = [key for _, _, key in self.submitted]
        if idempotency_key in keys:
            place = keys.index(idempotency_key)
            assert self.submitted[place][:2] == (task, given), "409 idempotency_conflict"
        else:
            place = len(keys)
            self.submitted.append((task, dict(given), idempotency_key))
        return {"task": task, "jobId": f"job_{place + 1}"}

    async def watch(self, accepted: dict[str, Any]) -> dict[str, Any]:
        status = "failed" if accepted["task"] == self.failing else "succeeded"
        url = f"https://files.test/{accepted['jobId']}.mp4?expires=1&signature={next(self._signatures)}"
        return {**accepted, "status": status, "downloadableOutputUrls": [url]}


def wish(**changes: Any) -> Extension:
    given = {"prompt": "she turns around"}
    return Extension(
        **{"seconds": 1.0, "overlap": 9, "sampled_fps": None, "reference_audio": None, "given": given, **changes}
    )


@pytest.mark.parametrize(
    ("seconds", "fps", "overlap", "frames"), [(4.4, 25, 3, 113), (16.1, 30, 6, 489), (1, 30, 0, 33), (0.1, 8, 1, 9)]
)
def test_a_continuation_has_no_more_frames_than_it_needs(seconds: float, fps: int, overlap: int, frames: int) -> None:
    assert wish(seconds=seconds, overlap=overlap).frames(fps) == frames


@drawn(tenths=st.integers(1, 180), fps=st.integers(8, 30), overlap=st.integers(0, 33))
def test_frames_are_counted_in_exact_arithmetic(tenths: int, fps: int, overlap: int) -> None:
    least = overlap - (-tenths * fps // 10)
    frames = wish(seconds=tenths / 10, overlap=overlap).frames(fps)
    assert frames == max(9, next(count for count in range(least, least + 8) if count % 8 == 1))


async def test_the_last_frames_begin_the_next_clip_and_both_become_one_film(tmp_path: Path) -> None:
    api, clip = ApiDouble(), film(tmp_path / "a.mp4", 120, 60)
    job = await extended(api, clip, None, wish(), "k", api.watch)  # type: ignore[arg-type]
    assert job["jobId"] == "job_2"
    (task, given, key), (joining, joined, _) = api.submitted
    assert (task, key, joining) == ("video.generate", "k-generate", "video.combine")
    frames = given.pop("overlapFrameImages")
    assert given == {
        "prompt": "she turns around",
        "width": WIDTH,
        "height": HEIGHT,
        "durationFrames": 41,
        "sampledFps": 30,
        "interpolationFps": 60,
    }
    lumas = []
    for url in frames:
        with Image.open(io.BytesIO(api.uploads[url])) as picture:
            lumas.append(float(np.asarray(picture.convert("RGB")).mean()) * 219 / 255)
    assert lumas == pytest.approx([119 - 2 * back for back in reversed(range(9))], abs=0.75)
    clip_url = "https://files.test/k-clip.mp4"
    assert api.uploads[clip_url] == clip.read_bytes()
    assert joined == {"videoUrls": [clip_url, "https://files.test/job_1.mp4"], "overlapFrames": 9, "overlapFps": 30}


async def test_what_made_the_clip_is_taken_over_and_what_is_asked_for_goes_before(tmp_path: Path) -> None:
    api, clip = ApiDouble(), film(tmp_path / "a.mp4", 60, 60)
    before = {"prompt": "a fox", "seed": 7, "sampledFps": 20}
    made = {"details": {"effectiveInput": before}}
    asked = {"seed": 8, "interpolationFps": 30}
    await extended(api, clip, made, wish(given=asked, overlap=3), "k", api.watch)  # type: ignore[arg-type]
    _, given, _ = api.submitted[0]
    assert (given["prompt"], given["seed"], given["sampledFps"], given["interpolationFps"]) == ("a fox", 8, 20, 30)
    assert given["durationFrames"] == 25
    assert len(given["overlapFrameImages"]) == 3


async def test_the_sound_begins_with_the_overlap(tmp_path: Path) -> None:
    api, clip = ApiDouble(), film(tmp_path / "a.mp4", 50, 25)
    song = tmp_path / "song.opus"
    song.write_bytes(sound())
    await extended(api, clip, None, wish(reference_audio=song), "k", api.watch)  # type: ignore[arg-type]
    given = api.submitted[0][1]
    heard = mezzanine.unflac(api.uploads[given["referenceAudio"]])
    start, count = round((2 - 9 / 25) * 48_000), round(given["durationFrames"] / 25 * 48_000)
    assert heard.shape == (2, count)
    assert np.abs(heard - tone(4)[:, start : start + count]).max() < 0.05


async def test_a_continuation_that_fails_is_not_joined(tmp_path: Path) -> None:
    api, clip = ApiDouble("video.generate"), film(tmp_path / "a.mp4", 30, 30)
    job = await extended(api, clip, None, wish(), "k", api.watch)  # type: ignore[arg-type]
    assert job["status"] == "failed"
    assert len(api.submitted) == 1


async def test_the_same_words_again_ask_for_the_same_jobs(tmp_path: Path) -> None:
    api, clip = ApiDouble(), film(tmp_path / "a.mp4", 30, 25)
    first = await extended(api, clip, None, wish(), "k", api.watch)  # type: ignore[arg-type]
    again = await extended(api, clip, None, wish(), "k", api.watch)  # type: ignore[arg-type]
    assert again["jobId"] == first["jobId"]
    assert len(api.submitted) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 33}, "shorter than 33 frames"),
        ({"sampled_fps": 8, "overlap": 20}, "shorter than 20 frames"),
        ({"seconds": float("inf")}, "--seconds"),
        ({"seconds": 60.0}, "too long; at most 23"),
        ({"sampled_fps": 0}, "--sampled-fps is from 8 to 30"),
        ({"sampled_fps": 60}, "--sampled-fps is from 8 to 30"),
        ({"given": {"prompt": "p", "sampledFps": 24}}, "say it with --sampled-fps"),
        ({"given": {"prompt": "p", "durationFrames": 9}}, "say it with --seconds"),
        ({"given": {}}, "--input prompt="),
        ({"reference_audio": Path("/nowhere/a.wav")}, "a.wav"),
    ],
)
async def test_what_cannot_be_extended_is_told_before_anything_is_paid(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    api, clip = ApiDouble(), film(tmp_path / "a.mp4", 30, 25)
    with pytest.raises(NotExtensible, match=message):
        await extended(api, clip, None, wish(**changes), "k", api.watch)  # type: ignore[arg-type]
    assert api.submitted == []


@pytest.mark.parametrize("content", [None, b"", b"words", b"\0\0\0\x18ftypisom"])
async def test_what_is_no_clip_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path, api = tmp_path / "a.mp4", ApiDouble()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NotExtensible, match=r"a\.mp4"):
        await extended(api, path, None, wish(), "k", api.watch)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"words", b"RIFF"])
def test_sound_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(NotExtensible, match=r"a\.wav"):
        slice_of(path, Fraction(0), Fraction(1))


@pytest.mark.parametrize(("rate", "fps"), [(60, 30), (50, 25), (30, 30), (24, 24), (8, 8), (48, 24)])
def test_the_rate_that_was_sampled(rate: int, fps: int) -> None:
    assert sampled_rate(Fraction(rate)) == fps


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(7), Fraction(120), Fraction(55)])
def test_a_rate_that_was_never_sampled_must_be_said(rate: Fraction) -> None:
    with pytest.raises(NotExtensible, match="--sampled-fps"):
        sampled_rate(rate)
