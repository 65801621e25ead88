"""`video.combine` and `image.edit`, and how media are named."""

from __future__ import annotations

import base64

import pytest

from tasks.media_fields import MAX_AUDIO_BYTES, is_jpeg, kbps
from tasks.registry import TASKS
from tests.tasks.asking import CLONE, LEAST, URL, prepare, refused, refused_input


def test_combine_counts_the_overlap_at_the_output_rate_unless_told_otherwise() -> None:
    plain = prepare("video.combine", seed=1).effective_input
    assert plain == {"videoUrls": [URL, URL], "overlapFrames": 0, "frameRate": None, "overlapFps": None, "seed": 1}
    assert prepare("video.combine", frameRate=60, overlapFrames=3).effective_input["overlapFps"] == 60
    effective = prepare("video.combine", frameRate=59.94, overlapFps=25).effective_input
    assert (effective["frameRate"], effective["overlapFps"]) == (59.94, 25)


def test_combine_says_how_many_clips_it_takes() -> None:
    few = refused("video.combine", videoUrls=[URL])["input.videoUrls"]
    assert few.message == "must have at least 2 items, not 1"
    assert few.allowed == {"type": "array", "minItems": 2, "maxItems": 50}
    assert "at most 50 items" in refused("video.combine", videoUrls=[URL] * 51)["input.videoUrls"].message


def test_combine_estimates_by_clips() -> None:
    task = TASKS["video.combine"]
    assert task.prior_seconds({"videoUrls": [URL] * 20}) > 2 * task.prior_seconds({"videoUrls": [URL] * 2})


def test_an_edit_needs_a_source_or_references() -> None:
    assert set(refused_input("image.edit", {"prompt": "x"})[0].as_json()) == {"path", "message"}
    assert "input.sourceImage" in refused("image.edit", sourceImage=None)
    assert "input.sourceImage" in refused("image.edit", sourceImage=None, referenceImages=[])
    effective = prepare("image.edit", sourceImage=None, referenceImageUrls=[URL], seed=1).effective_input
    assert effective == {
        "prompt": "in noir",
        "sourceImage": None,
        "referenceImages": [URL],
        "outputFormat": "webp",
        "highDetail": False,
        "seed": 1,
    }


def test_an_edit_takes_its_size_from_its_source() -> None:
    for name in ("width", "height", "aspectRatio"):
        assert "unknown field" in refused("image.edit", **{name: 512})[f"input.{name}"].message
    task = TASKS["image.edit"]
    plain, detailed = prepare("image.edit").effective_input, prepare("image.edit", highDetail=True).effective_input
    assert task.prior_seconds(plain) < task.prior_seconds(detailed)
    assert prepare("image.edit", outputFormat="jpeg").effective_input["outputFormat"] == "jpg"


@pytest.mark.parametrize(
    ("mime", "kept"),
    [("audio/webm;codecs=opus", "audio/webm"), ("AUDIO/X-WAV", "audio/x-wav"), (" audio/mp4 ; x=y", "audio/mp4")],
)
def test_parameters_of_a_mime_type_do_not_count(mime: str, kept: str) -> None:
    inline = {"dataBase64": "bm90IGxvb2tlZCBhdA==", "mimeType": mime}
    given = {**LEAST["audio.speak"], **CLONE, "voiceDescription": None, "referenceAudio": inline}
    assert TASKS["audio.speak"].prepare(given).effective_input["referenceAudio"]["mimeType"] == kept
    uri = {"dataBase64": f"data:{mime.strip()};base64,bm90IGxvb2tlZCBhdA=="}
    if " " not in mime:
        given["referenceAudio"] = uri
        assert TASKS["audio.speak"].prepare(given).effective_input["referenceAudio"]["mimeType"] == kept


def test_inline_media_have_a_largest_size_of_their_kind() -> None:
    exact = {"dataBase64": base64.b64encode(bytes(MAX_AUDIO_BYTES)).decode(), "mimeType": "audio/wav"}
    assert prepare("audio.annotation.reference", sourceAudio=exact).adjustments == ()
    exact["dataBase64"] = base64.b64encode(bytes(MAX_AUDIO_BYTES + 1)).decode()
    problems = refused("audio.annotation.reference", sourceAudio=exact)
    assert problems["input.sourceAudio.dataBase64"].message == "must hold at most 50000000 bytes, not 50000001"


def test_an_image_is_no_audio_and_audio_no_image() -> None:
    image = {"dataBase64": "bm90IGxvb2tlZCBhdA==", "mimeType": "image/png"}
    problem = refused("audio.annotation.reference", sourceAudio=image)["input.sourceAudio.mimeType"]
    assert "one of audio/ogg" in problem.message
    audio = {**image, "mimeType": "audio/ogg"}
    assert "one of image/png" in refused("trellis.generate", sourceImage=audio)["input.sourceImage.mimeType"].message


def test_small_readings() -> None:
    assert [kbps(quality) for quality in ("64k", "320k")] == [64, 320]
    assert is_jpeg({"mimeType": "image/jpg", "sha256": "0"})
    assert not is_jpeg({"mimeType": "image/png", "dataBase64": "x.jpg"})
