"""The chain of video.combine over a real database, real Ray tasks and real clips."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cluster import combining
from cluster.chains import video_combine
from cluster.combining import Wish, combined
from cluster.conversation import JobStopped
from cluster.steps import Steps
from cluster.work import Place
from core import egress
from core.clock import now
from core.database import Database
from core.egress import FetchFailed
from core.settings import Settings
from jobs.artifacts import Artifacts, NoSuchFile
from jobs.leases import Leases, Outcome
from media.errors import InvalidMedia, MediaError, OverlapTooLong
from media.video import VideoWriter
from storage import Store, open_store, scratch
from tests.cluster.serving_files import FileServer
from tests.leasing import job_of, leased, new_pool, session

WIDTH, HEIGHT = 64, 48


def clip(folder: Path, frames: int, *, first: int = 0, fps: int = 25, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    """Frame `n` is of luma 20 + 2 * (first + n), all over."""
    width, height = size
    path = folder / "clip.mp4"
    with VideoWriter(path, width=width, height=height, fps=Fraction(fps)) as writer:
        for number in range(frames):
            planes = np.full((1, height * 3 // 2, width), 128, np.uint8)
            planes[:, :height] = 20 + 2 * (first + number)
            writer.write(planes)
    return path.read_bytes()


def numbers(content: bytes) -> list[int]:
    with av.open(io.BytesIO(content), "r") as file:
        middles = [frame.to_ndarray()[frame.height // 2, frame.width // 2] for frame in file.decode(video=0)]
    return [round((int(luma) - 20) / 2) for luma in middles]


Combine = Callable[..., Awaitable[Outcome]]


@pytest.fixture
async def steps_for(in_cluster: None, cluster_database: Database) -> AsyncIterator[Callable[..., Awaitable[Steps]]]:
    async with session(cluster_database) as number:

        async def make(*urls: str, **changes: Any) -> Steps:
            given = {"videoUrls": list(urls), "overlapFrames": 0, "frameRate": None, "overlapFps": None, **changes}
            lease = await leased(cluster_database, number, new_pool(), given, task="video.combine")
            store = open_store(Settings(), Settings().base_url)
            return Steps(lease, Leases(cluster_database), Artifacts(cluster_database, store, kept_days=7))

        yield make


@pytest.fixture
def store(in_cluster: None) -> Store:
    return open_store(Settings(), "")


async def test_clips_become_one_film(
    steps_for: Callable[..., Awaitable[Steps]],
    files: FileServer,
    store: Store,
    cluster_database: Database,
    tmp_path: Path,
) -> None:
    urls = [files.add("a.mp4", clip(tmp_path, 30)), files.add("b.mp4", clip(tmp_path, 30, first=27))]
    steps = await steps_for(*urls, overlapFrames=3)
    outcome = await video_combine.combine(steps)
    primary, poster, thumbnail = outcome.outputs
    assert numbers(store.read(primary["key"])) == list(range(57))
    assert (primary["frames"], primary["fps"], primary["durationSeconds"]) == (57, 25.0, 2.28)
    assert (primary["width"], primary["height"], primary["mimeType"]) == (WIDTH, HEIGHT, "video/mp4")
    assert {each["key"].rpartition("/")[0] for each in outcome.outputs} == {steps.folder}
    assert (poster["role"], thumbnail["role"]) == ("poster", "thumbnail")
    assert outcome.adjustments == ()
    assert outcome.stand_in is False
    assert outcome.upstream is not None
    assert outcome.upstream["method"] == "smart"
    assert outcome.upstream["copiedFrames"] + outcome.upstream["encodedFrames"] == 57
    assert [stage.name for stage in (await job_of(cluster_database, steps.lease)).stages] == [
        "fetch",
        "combine",
        "publish",
    ]
    assert not list(Path(tempfile.gettempdir()).glob(f"{scratch.PREFIX}*"))


async def test_what_a_clip_had_to_become_is_told(
    steps_for: Callable[..., Awaitable[Steps]], files: FileServer, tmp_path: Path
) -> None:
    urls = [files.add("a.mp4", clip(tmp_path, 10)), files.add("b.mp4", clip(tmp_path, 20, fps=50, size=(48, 64)))]
    outcome = await video_combine.combine(await steps_for(*urls))
    assert outcome.outputs[0]["frames"] == 20
    told = {(each["field"], each["reason"].partition(":")[0]) for each in outcome.adjustments}
    assert told == {
        ("videoUrls[1]", "another aspect ratio than the first clip"),
        ("videoUrls[1]", "another size than the first clip"),
        ("videoUrls[1]", "another frame rate, or none that is constant"),
    }
    assert {each["at"] for each in outcome.adjustments} == {"run"}


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", InvalidMedia), (b"<html>", MediaError), (None, FetchFailed)],
    ids=["empty", "html", "404"],
)
async def test_a_bad_clip_is_named(
    steps_for: Callable[..., Awaitable[Steps]],
    files: FileServer,
    tmp_path: Path,
    content: bytes | None,
    error: type[MediaError] | type[FetchFailed],
) -> None:
    good = files.add("a.mp4", clip(tmp_path, 5))
    bad = f"{files.url}/nowhere.mp4" if content is None else files.add("bad.mp4", content)
    steps = await steps_for(good, good, bad, good)
    with pytest.raises(error) as raised:
        await video_combine.combine(steps)
    assert getattr(raised.value, "path") == "videoUrls[2]"  # noqa: B009 (one of two classes)
    assert not list(open_store(Settings(), "").keys(f"{steps.folder}/"))


async def test_a_clip_of_another_account_is_named(
    steps_for: Callable[..., Awaitable[Steps]], files: FileServer, tmp_path: Path
) -> None:
    good = files.add("a.mp4", clip(tmp_path, 5))
    key = "jobs/00000000-0000-0000-0000-000000000000/1/video.mp4"
    theirs = open_store(Settings(), Settings().base_url).url(key, expires_at=now(), filename="video.mp4")
    with pytest.raises(NoSuchFile) as raised:
        await video_combine.combine(await steps_for(good, theirs))
    assert raised.value.path == "videoUrls[1]"


async def test_an_overlap_as_long_as_a_clip_fails(
    steps_for: Callable[..., Awaitable[Steps]], files: FileServer, tmp_path: Path
) -> None:
    urls = [files.add("a.mp4", clip(tmp_path, 30)), files.add("b.mp4", clip(tmp_path, 5))]
    with pytest.raises(OverlapTooLong) as raised:
        await video_combine.combine(await steps_for(*urls, overlapFrames=5))
    assert raised.value.code == "overlap_too_long"
    assert raised.value.path == "videoUrls[1]"


async def test_a_clip_that_comes_again_is_fetched_once(
    steps_for: Callable[..., Awaitable[Steps]], files: FileServer, store: Store, tmp_path: Path
) -> None:
    one, two = files.add("a.mp4", clip(tmp_path, 5)), files.add("b.mp4", clip(tmp_path, 5, first=5))
    outcome = await video_combine.combine(await steps_for(one, two, one, one))
    found = numbers(store.read(outcome.outputs[0]["key"]))
    assert found == [*range(10), *range(5), *range(5)]
    assert sorted(files.served) == ["a.mp4", "b.mp4"]


def test_clips_that_drip_have_a_limit_together(
    in_cluster: None, files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    async def download(url: str, file: Any, *, timeout_s: float, **_: Any) -> None:
        asked.append(timeout_s)
        file.write(clip(tmp_path, 5))

    monkeypatch.setattr(egress, "download", download)
    monkeypatch.setattr(combining, "_FETCH_ALL_SECONDS", 0.0)
    places = [Place(url=f"{files.url}/{name}.mp4") for name in "ab"]
    next(combined(places, Wish(0, None, None), "jobs/a/1"))
    assert asked == [1.0, 1.0]


async def test_a_stop_ends_the_task_and_leaves_no_files(
    steps_for: Callable[..., Awaitable[Steps]], files: FileServer, tmp_path: Path
) -> None:
    steps = await steps_for(files.add("a.mp4", clip(tmp_path, 5)), files.hang("slow.mp4"))
    with pytest.raises(JobStopped):
        await stopped_once(files, steps)
    for _ in range(100):
        if not list(Path(tempfile.gettempdir()).glob(f"{scratch.PREFIX}*")):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("temporary clips are left")


async def stopped_once(files: FileServer, steps: Steps) -> None:
    running = asyncio.create_task(video_combine.combine(steps))
    await asyncio.to_thread(files.asked.wait, 20)
    steps.stop()
    await running
