"""The chain of video.generate over a real database, real Ray tasks and real files; its models are doubles."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import ray
from PIL import Image

from cluster.chains import video_generate
from cluster.steps import Steps
from core.database import Database
from core.settings import Settings
from deployments import clips
from deployments.clips import Film, Mezzanine, StoredClip
from deployments.messages import Call, Finished, Message, Progress
from jobs.artifacts import Artifacts
from jobs.leases import Leases, Outcome
from media.clip import Clip, sound_samples
from media.errors import InvalidMedia, MediaError, NoSound
from models.ltx_video import VideoRequest
from models.rife import InterpolationRequest
from storage import open_store
from tasks.registry import TASKS
from tests.acceptance.cdn import clip as video_file
from tests.acceptance.cdn import sound, tone
from tests.cluster.doubles import STARTED, HandleDouble
from tests.cluster.serving_files import FileServer
from tests.leasing import job_of, leased, new_pool, session

PROMPT = {"prompt": "a fox runs", "seed": 7, "width": 320, "height": 256}


def grey(frames: int, fps: Fraction, given: npt.NDArray[np.float32] | None) -> Clip:
    def chunks() -> Iterator[npt.NDArray[np.uint8]]:
        for start in range(0, frames, 16):
            chunk = np.full((min(16, frames - start), 384, 320), 128, np.uint8)
            for index, planes in enumerate(chunk):
                planes[:256] = 16 + start + index
            yield chunk

    return Clip(320, 256, fps, frames, chunks(), given, {"seed": 7, "adjustments": [{"field": "prompt", "at": "run"}]})


async def filming(call: Call) -> AsyncIterator[Message]:
    """Engines that make grey clips, into the sink that they are given."""
    yield STARTED
    yield Progress(1, 1)
    store, request = open_store(Settings(), ""), call.request
    if isinstance(request, VideoRequest):
        given = None if request.sound is None else await request.sound
        clip = grey(request.frames, Fraction(request.fps), given)
    else:
        assert isinstance(request, InterpolationRequest)
        clip = grey(request.frames, request.fps, None)
    assert call.sink is not None
    yield Finished(ray.put(clips.take(call.sink, clip, store)), 1.5, clip.details)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> HandleDouble:
    made = HandleDouble(filming)
    monkeypatch.setattr("cluster.conversation.serve.get_app_handle", made)
    return made


Make = Callable[..., Awaitable[Steps]]


@pytest.fixture
async def steps_for(in_cluster: None, cluster_database: Database, handle: HandleDouble) -> AsyncIterator[Make]:
    async with session(cluster_database) as number:

        async def make(**given: Any) -> Steps:
            effective = TASKS["video.generate"].prepare({**PROMPT, **given}).effective_input
            lease = await leased(cluster_database, number, new_pool(), effective, task="video.generate")
            store = open_store(Settings(), Settings().base_url)
            return Steps(lease, Leases(cluster_database), Artifacts(cluster_database, store, kept_days=7))

        yield make


async def delivered(steps: Steps) -> Outcome:
    """Both segments, one after the other."""
    checkpoint = json.loads(json.dumps(await video_generate.generate(steps)))
    steps.lease = dataclasses.replace(steps.lease, segment=1, checkpoint=checkpoint)
    return await video_generate.deliver(steps)


def picture(width: int, height: int, colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def luma(content: bytes) -> list[float]:
    with av.open(io.BytesIO(content), "r") as file:
        return [float(frame.to_ndarray()[: frame.height].mean()) for frame in file.decode(video=0)]


async def test_both_segments_make_the_film(steps_for: Make, handle: HandleDouble, cluster_database: Database) -> None:
    steps = await steps_for(durationFrames=17, sampledFps=25, interpolationFps=50)
    outcome = await delivered(steps)
    generate, interpolate = (stream.call for stream in handle.streams)
    assert generate.sink == Mezzanine(steps.folder)
    request = generate.request
    assert (request.frames, request.fps, request.seed, request.extreme_quality) == (17, 25, 7, False)
    assert (request.start, request.final, request.overlap, request.sound) == (None, None, (), None)
    assert isinstance(interpolate.request.source, StoredClip)
    assert (interpolate.request.fps, interpolate.request.frames) == (Fraction(50), 33)
    film = interpolate.sink
    assert isinstance(film, Film)
    assert (film.width, film.height, film.frames, film.folder) == (320, 256, 33, steps.folder)
    assert film.xmp is not None
    assert b'"task":"video.generate","engine":"double"' in film.xmp
    primary = outcome.outputs[0]
    assert (primary["frames"], primary["fps"], primary["durationSeconds"]) == (33, 50.0, 0.66)
    assert outcome.upstream is not None
    assert outcome.upstream["interpolation"] == {"engine": "double", "seed": 7}
    assert outcome.adjustments == ({"field": "prompt", "at": "run"},)
    assert (outcome.engine, outcome.stand_in) == ("double", True)
    stages = (await job_of(cluster_database, steps.lease)).stages
    assert [(stage.name, stage.gpu_seconds) for stage in stages] == [("ltx-video", 1.5), ("rife", 1.5)]


async def test_without_interpolation_a_cpu_encodes_the_checkpoint_and_trims_it(steps_for: Make) -> None:
    steps = await steps_for(durationSeconds=1, sampledFps=24, interpolationFps=0)
    assert TASKS["video.generate"].pools(steps.input) == ("ltx-video", "cpu")
    outcome = await delivered(steps)
    primary = outcome.outputs[0]
    assert (primary["frames"], primary["fps"], primary["durationSeconds"]) == (24, 24.0, 1.0)
    store = open_store(Settings(), "")
    assert luma(store.read(primary["key"])) == pytest.approx([16 + number for number in range(24)], abs=1)


async def test_pictures_are_cut_to_the_canvas_and_sound_to_the_clip(
    steps_for: Make, handle: HandleDouble, files: FileServer
) -> None:
    start, final = picture(400, 400, "red"), picture(320, 256, "blue")
    overlap = [files.add(f"{name}.png", picture(640, 512, name)) for name in ("lime", "navy")]
    given = {
        "startFrameImage": files.add("a.png", start),
        "finalFrameImage": files.add("b.png", final),
        "overlapFrameImages": overlap,
        "referenceAudio": files.add("a.opus", sound()),
        "durationFrames": 25,
        "sampledFps": 25,
        "interpolationFps": 0,
    }
    outcome = await delivered(await steps_for(**given))
    request = handle.streams[0].call.request
    assert request.start is None
    pixels = [await each for each in (*request.overlap, request.final)]
    assert {each.shape for each in pixels} == {(256, 320, 3)}
    assert [tuple(int(part) for part in each[128, 160]) for each in pixels] == [(255, 0, 0), (0, 0, 128), (0, 0, 255)]
    heard = await request.sound
    assert heard.shape == (2, sound_samples(25, Fraction(25)))
    assert np.abs(heard[:, 2000:] - tone(4)[:, 2000 : heard.shape[1]]).max() < 0.05
    told = [(each["field"], each["from"], each["to"]) for each in outcome.adjustments if each["field"] != "prompt"]
    assert told == [
        ("overlapFrameImages[0]", "400x400", "320x256"),
        ("overlapFrameImages[1]", "640x512", "320x256"),
        ("referenceAudio", "a longer sound", "1.000 s"),
    ]
    reasons = [each["reason"] for each in outcome.adjustments if each["field"].startswith("overlap")]
    assert "cut evenly" in reasons[0]
    assert reasons[1] == "scaled to the canvas"


async def test_sound_that_ends_early_is_followed_by_silence(
    steps_for: Make, handle: HandleDouble, files: FileServer
) -> None:
    given = {
        "startFrameImage": files.add("a.png", picture(320, 256, "red")),
        "referenceAudio": files.add("a.opus", sound()),
        "durationFrames": 129,
        "sampledFps": 25,
    }
    checkpoint = await video_generate.generate(await steps_for(**given))
    heard = await handle.streams[0].call.request.sound
    assert heard.shape == (2, sound_samples(129, Fraction(25)))
    assert not heard[:, 4 * 48_000 + 1000 :].any()
    changes = [each for each in checkpoint["adjustments"] if each["field"] == "referenceAudio"]
    assert [(each["from"], each["to"]) for each in changes] == [("4.000 s", "5.160 s")]


@pytest.mark.parametrize(
    ("field", "content", "error"),
    [
        ("startFrameImage", b"\x89PNG\r\n\x1a\n", InvalidMedia),
        ("finalFrameImage", b"GIF89a", MediaError),
        ("referenceAudio", b"OggS broken", InvalidMedia),
        ("referenceAudio", b"words", MediaError),
        ("referenceAudio", None, NoSound),
    ],
)
async def test_a_bad_file_is_named(
    steps_for: Make,
    handle: HandleDouble,
    files: FileServer,
    field: str,
    content: bytes | None,
    error: type[MediaError],
) -> None:
    given = {"startFrameImage": files.add("good.png", picture(320, 256, "red")), "durationFrames": 9}
    steps = await steps_for(**{**given, field: files.add("bad.bin", _mute() if content is None else content)})
    with pytest.raises(error) as raised:
        await video_generate.generate(steps)
    assert raised.value.path == field
    assert handle.streams == []


async def test_pictures_are_fetched_a_few_at_once_and_the_first_bad_one_ends_it(
    steps_for: Make, handle: HandleDouble, files: FileServer
) -> None:
    files.gate = threading.Barrier(4)
    urls = [files.add(f"{number}.png", picture(320, 256, "red")) for number in range(8)]
    await video_generate.generate(await steps_for(overlapFrameImages=urls, durationFrames=9))
    files.gate = None
    slow = [files.hang("slow.png"), *urls[:2], files.add("bad.png", b"GIF89a"), *urls[4:7]]
    with pytest.raises(MediaError) as raised:
        await video_generate.generate(await steps_for(overlapFrameImages=slow, durationFrames=9))
    assert raised.value.path == "overlapFrameImages[3]"


def _mute() -> bytes:
    """A video without a sound track."""
    source, target = io.BytesIO(video_file()), io.BytesIO()
    with av.open(source, "r") as given, av.open(target, "w", format="mp4") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.size:
                packet.stream = copy
                made.mux(packet)
    return target.getvalue()
