from __future__ import annotations

from typing import Any

import pytest

from media.arithmetic import MAX_PIXELS
from tasks.registry import TASKS
from tasks.video_generate import CANVASES, delivered_frames, frames, output_fps
from tests.tasks.asking import URL, prepare, refused

TASK = "video.generate"
INLINE = {"dataBase64": "bm90IGxvb2tlZCBhdCBoZXJl", "mimeType": "image/webp"}
JPEG = {"dataBase64": "bm90IGxvb2tlZCBhdCBoZXJl", "mimeType": "image/jpeg"}


def test_every_default_is_filled_in() -> None:
    prepared = prepare(TASK, seed=7)
    assert prepared.effective_input == {
        "prompt": "a slow push-in",
        "negativePrompt": "",
        "startFrameImage": None,
        "finalFrameImage": None,
        "overlapFrameImages": None,
        "referenceAudio": None,
        "durationFrames": None,
        "durationSeconds": 6,
        "sampledFps": 30,
        "interpolationFps": 60,
        "width": 1280,
        "height": 704,
        "extremeQuality": False,
        "seed": 7,
    }
    assert prepared.adjustments == ()
    assert frames(prepared.effective_input) == 185
    assert delivered_frames(prepared.effective_input) == 360


@pytest.mark.parametrize(
    ("given", "made", "delivered", "fps"),
    [
        ({"durationSeconds": 6}, 185, 360, 60),
        ({"durationSeconds": 6, "interpolationFps": 0}, 185, 180, 30),
        ({"durationSeconds": 1, "sampledFps": 8}, 9, 60, 60),
        ({"durationSeconds": 20}, 601, 1200, 60),
        ({"durationSeconds": 2.5, "sampledFps": 24, "interpolationFps": 48}, 65, 120, 48),
        ({"durationFrames": 257, "sampledFps": 25}, 257, 615, 60),
        ({"durationFrames": 257, "sampledFps": 25, "interpolationFps": 0}, 257, 257, 25),
        ({"durationFrames": 9}, 9, 17, 60),
        ({"durationFrames": 601}, 601, 1201, 60),
    ],
)
def test_durations(given: dict[str, Any], made: int, delivered: int, fps: int) -> None:
    effective = prepare(TASK, **given).effective_input
    assert (frames(effective), delivered_frames(effective), output_fps(effective)) == (made, delivered, fps)


def test_seconds_that_were_given_are_adjusted_and_the_trail_says_how() -> None:
    (change,) = prepare(TASK, durationSeconds=6).adjustments
    assert change.as_json() == {
        "field": "durationSeconds",
        "from": 6,
        "to": 6.166667,
        "reason": "185 frames, the next 8n + 1, at 30 a second; the file is trimmed back to 6 s",
        "at": "submit",
    }
    assert prepare(TASK, durationSeconds=1, sampledFps=17).adjustments == ()
    assert prepare(TASK, durationFrames=257).adjustments == ()


def test_strict_refuses_seconds_that_are_no_clip_length_and_names_the_frames() -> None:
    problem = refused(TASK, strict=True, durationSeconds=5)["input.durationSeconds"]
    assert problem.nearest == {"durationFrames": 153}
    assert prepare(TASK, strict=True, durationFrames=153).adjustments == ()


@pytest.mark.parametrize("beside", [{}, {"sampledFps": 25}, {"sampledFps": 29, "interpolationFps": 0}])
def test_strict_takes_the_seconds_of_the_default_and_the_trail_still_tells(beside: dict[str, Any]) -> None:
    assumed = prepare(TASK, strict=True, **beside)
    given = prepare(TASK, strict=True, seed=assumed.effective_input["seed"], **beside, durationSeconds=6)
    assert given.effective_input == assumed.effective_input
    assert assumed.adjustments == ()
    assert [change.field for change in given.adjustments] == ["durationSeconds"]


@pytest.mark.parametrize(
    ("given", "near", "says"),
    [
        (250, 249, "249 or 257"),
        (253, 249, "249 or 257"),
        (254, 257, "249 or 257"),
        (10, 9, "9 or 17"),
        (600, 601, "601"),
    ],
)
def test_frames_that_are_no_clip_length(given: int, near: int, says: str) -> None:
    problem = refused(TASK, durationFrames=given)["input.durationFrames"]
    assert problem.nearest == near
    assert says in problem.message
    assert f"not {given}" in problem.message


def test_both_durations_are_refused() -> None:
    problems = refused(TASK, durationFrames=185, durationSeconds=6)
    assert set(problems) == {"input.durationFrames", "input.durationSeconds"}
    assert "durationSeconds" in problems["input.durationFrames"].message


@pytest.mark.parametrize("ratio", ["16:9", "9:16", "1:1", "4:3", "3:4", "21:9"])
def test_aspect_ratios(ratio: str) -> None:
    prepared = prepare(TASK, aspectRatio=ratio)
    size = prepared.effective_input["width"], prepared.effective_input["height"]
    assert size == CANVASES[ratio]
    assert all(side % 32 == 0 for side in size)
    assert "aspectRatio" not in prepared.effective_input
    assert prepared.adjustments == ()


def test_the_canvas_comes_in_one_way() -> None:
    assert "`width`" in refused(TASK, width=512, height=512, aspectRatio="1:1")["input.aspectRatio"].message
    assert set(refused(TASK, width=512)) == {"input.height"}
    assert set(refused(TASK, height=512, aspectRatio="16:9")) == {"input.aspectRatio", "input.width"}
    assert set(refused(TASK, width=2080, height=2048)) == {"input.width", "input.height"}


def test_the_canvas_goes_down_to_a_multiple_of_32() -> None:
    prepared = prepare(TASK, width=1920, height=1080)
    assert (prepared.effective_input["width"], prepared.effective_input["height"]) == (1920, 1056)
    assert [change.field for change in prepared.adjustments] == ["height"]
    largest = prepare(TASK, width=2048, height=2048).effective_input
    assert largest["width"] * largest["height"] == MAX_PIXELS


@pytest.mark.parametrize("name", ["startFrameImage", "startFrameImageUrl", "sourceImage", "sourceImageUrl"])
def test_a_start_frame_by_any_name(name: str) -> None:
    effective = prepare(TASK, **{name: URL}, referenceAudioUrl=URL, finalFrameImageUrl=URL).effective_input
    assert effective["startFrameImage"] == effective["finalFrameImage"] == effective["referenceAudio"] == URL
    assert not {"startFrameImageUrl", "sourceImage", "sourceImageUrl", "finalFrameImageUrl", "referenceAudioUrl"} & set(
        effective
    )


def test_reference_audio_needs_a_picture() -> None:
    for name in ("referenceAudio", "referenceAudioUrl"):
        problem = refused(TASK, **{name: URL, "finalFrameImage": URL})[f"input.{name}"]
        assert "startFrameImageUrl" in problem.message
    assert prepare(TASK, referenceAudio=URL, overlapFrameImages=[URL]).effective_input["referenceAudio"] == URL


def test_overlap_frames_are_fewer_than_the_clips() -> None:
    assert len(prepare(TASK, durationFrames=9, overlapFrameImages=[URL] * 8).effective_input["overlapFrameImages"]) == 8
    problem = refused(TASK, durationFrames=9, overlapFrameImageUrls=[URL] * 9)["input.overlapFrameImageUrls"]
    assert "at most 8 of 9, not 9" in problem.message
    assert problem.allowed == {"maxItems": 8}
    assert refused(TASK, durationSeconds=1, sampledFps=8, overlapFrameImages=[URL] * 33)


def test_a_start_frame_takes_the_place_of_the_first_overlap_frame() -> None:
    other = "https://cdn.example.com/start.webp"
    prepared = prepare(TASK, sourceImageUrl=other, overlapFrameImageUrls=[URL, URL, URL], durationFrames=257)
    assert prepared.effective_input["overlapFrameImages"] == [other, URL, URL]
    assert prepared.effective_input["startFrameImage"] is None
    (change,) = prepared.adjustments
    assert (change.field, change.from_, change.to) == (
        "overlapFrameImageUrls[0]",
        "overlapFrameImageUrls[0]",
        "sourceImageUrl",
    )
    problems = refused(TASK, strict=True, sourceImageUrl=other, overlapFrameImageUrls=[URL, URL], durationFrames=257)
    assert problems["input.overlapFrameImageUrls[0]"].nearest is None
    again = TASKS[TASK].prepare(prepared.effective_input, strict=True)
    assert again.effective_input == prepared.effective_input


@pytest.mark.parametrize(
    ("frame", "warned"),
    [
        (URL, False),
        (INLINE, False),
        (JPEG, True),
        ("https://a.example/last.JPG?x=1", True),
        ("https://a.example/last.jpeg", True),
        ("https://a.example/last?name=a.jpg", False),
        ("https://a.example/jpg", False),
    ],
)
def test_jpeg_overlap_frames_are_accepted_with_a_warning(frame: Any, warned: bool) -> None:
    prepared = prepare(TASK, overlapFrameImages=[URL, frame])
    assert prepared.warnings == (("jpeg_overlap_frames",) if warned else ())
    assert prepare(TASK, startFrameImage=frame).warnings == ()


def test_interpolation_may_be_off() -> None:
    task = TASKS[TASK]
    off, on = prepare(TASK, interpolationFps=0).effective_input, prepare(TASK).effective_input
    assert task.pools(off) == ("ltx-video", "cpu")
    assert task.pools(on) == ("ltx-video", "rife")
    assert task.prior_seconds(off) < task.prior_seconds(on) < task.prior_seconds({**on, "extremeQuality": True})


def test_opt_in_fields_say_so() -> None:
    properties = TASKS[TASK].Input.model_json_schema()["properties"]
    assert properties["extremeQuality"]["x-agent-hint"] == "opt-in"
