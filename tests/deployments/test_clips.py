"""Clips on their way through the store: kept for a later segment, read again, made into the file that was promised."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from deployments import clips
from deployments.clips import Film, Mezzanine, Sink, StoredClip
from deployments.replica import with_clips
from media import video
from media.clip import Clip, Miscounted, counted, sound_samples
from media.sound import decode
from media.video import XMP_BOX
from models.base import Stopped
from models.rife import InterpolationRequest
from storage import Artifact, MissingObject, StoreUnavailable
from storage.local import LocalStore

FPS = Fraction(25)
WIDTH, HEIGHT = 64, 48


def frame(number: int) -> npt.NDArray[np.uint8]:
    """Grey that tells its number: luma is 20 + 2 * number."""
    planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
    planes[:HEIGHT] = 20 + 2 * number
    return planes


def clip(frames: int, said: int | None = None, *, sound: bool = True) -> Clip:
    def chunks() -> Iterator[npt.NDArray[np.uint8]]:
        for start in range(0, frames, 16):
            yield np.stack([frame(number) for number in range(start, min(frames, start + 16))])

    said = said or frames
    time = np.arange(sound_samples(said, FPS)) / 48_000
    tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)[None].repeat(2, 0)
    return Clip(WIDTH, HEIGHT, FPS, said, chunks(), tone if sound else None, {})


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "storage", "", None)


def numbers(chunks: Iterator[npt.NDArray[np.uint8]]) -> list[int]:
    return [round((float(each[:HEIGHT].mean()) - 20) / 2) for chunk in chunks for each in chunk]


def test_a_kept_clip_comes_back(store: LocalStore) -> None:
    given = clip(40)
    stored = clips.take(Mezzanine("jobs/a/1"), given, store)
    assert isinstance(stored, StoredClip)
    assert StoredClip(**asdict(stored)) == stored
    assert (stored.width, stored.height, stored.frames, stored.fps) == (WIDTH, HEIGHT, 40, FPS)
    assert all(key.startswith("jobs/a/1/") for key in list(store.keys()))
    with clips.opened(stored, store) as back:
        assert numbers(counted(back)) == list(range(40))
        assert back.sound is not None
        assert given.sound is not None
        assert np.abs(back.sound - given.sound).max() < 1e-6


def test_silence_needs_no_file(store: LocalStore) -> None:
    stored = clips.take(Mezzanine("jobs/a/1"), clip(3, sound=False), store)
    assert isinstance(stored, StoredClip)
    assert stored.sound is None
    assert list(store.keys()) == [stored.picture]
    with clips.opened(stored, store) as back:
        assert back.sound is None


def test_nothing_is_stored_of_a_clip_that_ends_early(store: LocalStore) -> None:
    with pytest.raises(Miscounted, match="17 frames were drawn of a clip of 18"):
        clips.take(Mezzanine("jobs/a/1"), clip(17, 18, sound=False), store)
    with pytest.raises(Miscounted, match="17 frames were drawn of a clip of 18"):
        clips.take(Film("jobs/a/1", 64, 48, 18), clip(17, 18), store)
    assert list(store.keys()) == []


def test_a_film_is_what_was_promised(store: LocalStore) -> None:
    outputs = clips.take(Film("jobs/a/2", 128, 96, 30, b"<x>a recipe</x>"), clip(40), store)
    assert isinstance(outputs, list)
    video, poster, thumbnail = outputs
    assert [each["role"] for each in outputs] == ["primary", "poster", "thumbnail"]
    assert (video["width"], video["height"], video["frames"], video["fps"]) == (128, 96, 30, 25.0)
    assert (video["durationSeconds"], video["sampleRate"], video["mimeType"]) == (1.2, 48_000, "video/mp4")
    content = store.read(video["key"])
    assert len(content) == video["bytes"]
    assert XMP_BOX.bytes + b"<x>a recipe</x>" in content
    with av.open(io.BytesIO(content), "r") as file:
        decoded = [each.to_ndarray(format="gray")[48, 64] for each in file.decode(video=0)]
    # A gray frame is in full range.
    assert [round(float(luma) * 219 / 255 - 4) / 2 for luma in decoded] == pytest.approx(list(range(30)), abs=1)
    assert decode(content, max_seconds=2, max_bytes=len(content)).shape == (2, 57_600)
    for output, size in ((poster, (128, 96)), (thumbnail, (128, 96))):
        with Image.open(io.BytesIO(store.read(output["key"]))) as picture:
            assert picture.size == size == (output["width"], output["height"])


def test_a_film_holds_the_last_frame(store: LocalStore) -> None:
    (video, *_) = clips.take(Film("jobs/a/2", 64, 48, 45), clip(40), store)  # type: ignore[misc]
    with av.open(io.BytesIO(store.read(video["key"])), "r") as file:
        last = [float(each.to_ndarray(format="gray").mean()) for each in file.decode(video=0)][-6:]
    assert len(last) == 6
    assert max(last) - min(last) < 1


def test_a_request_gets_the_clip_in_its_place(store: LocalStore) -> None:
    stored = clips.take(Mezzanine("jobs/a/1"), clip(5), store)
    request = InterpolationRequest(source=stored, fps=Fraction(50), frames=9)
    with ExitStack() as stack:
        ready = with_clips(request, store, stack)
        assert numbers(ready.source.chunks) == list(range(5))
        assert ready.frames == 9
        assert with_clips(ready, store, stack) is ready


def test_a_clip_that_is_gone_is_an_error(store: LocalStore) -> None:
    stored = clips.take(Mezzanine("jobs/a/1"), clip(5), store)
    assert isinstance(stored, StoredClip)
    store.delete(stored.picture)
    with pytest.raises(MissingObject), clips.opened(stored, store):
        pass


class Watched(LocalStore):
    """A store that says when it begins to take something."""

    said: list[str]

    def put(self, key: str, *given: Any, **named: Any) -> Artifact:
        self.said.append(key)
        return super().put(key, *given, **named)


@pytest.mark.parametrize(
    ("sink", "before"), [(Mezzanine("jobs/a/1"), ["jobs/a/1/sound.flac"]), (Film("jobs/a/1", 64, 48, 20), [])]
)
def test_the_engine_is_done_before_the_store_takes_what_it_made(tmp_path: Path, sink: Sink, before: list[str]) -> None:
    store = Watched(tmp_path / "storage", "", None)
    store.said = []
    drawn: list[list[str]] = []
    clips.take(sink, clip(20), store, lambda: drawn.append(list(store.said)))
    assert drawn[0] == before


@pytest.mark.parametrize(
    ("sink", "stored"),
    [
        (Mezzanine("jobs/a/1"), [["sound.flac"]]),
        (Film("jobs/a/1", 64, 48, 20), [[], ["video.mp4"], ["video.mp4", "poster.webp"]]),
    ],
)
def test_it_can_be_ended_after_the_last_frame_and_between_files(
    tmp_path: Path, sink: Sink, stored: list[list[str]]
) -> None:
    for number, names in enumerate(stored):
        store = LocalStore(tmp_path / f"storage {number}", "", None)
        rests = iter(range(len(stored)))

        def on_rest(rests: Iterator[int] = rests, number: int = number) -> None:
            if next(rests) == number:
                raise Stopped(2)

        with pytest.raises(Stopped):
            clips.take(sink, clip(20), store, on_rest)
        assert sorted(store.keys()) == sorted(f"jobs/a/1/{name}" for name in names)
        assert len(list(rests)) == len(stored) - number - 1


def test_a_full_disk_is_nobodys_fault(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise av.error.OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video.VideoWriter, "write", full)
    with pytest.raises(StoreUnavailable, match="ENOSPC"):
        clips.take(Film("jobs/a/1", 64, 48, 20), clip(20), store)
    assert list(store.keys()) == []
