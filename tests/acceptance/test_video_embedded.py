"""Every video request of the public documentation, through the real ingress, on the embedded fleet's engines."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from media.probe import probe
from media.sound import decode
from tests.acceptance.cdn import CLIP_FPS, CLIP_FRAMES, SOUND_SECONDS, tone
from tests.acceptance.embedded import cdn, stack
from tests.acceptance.public_examples import EXAMPLES, Example, filled
from tests.chaos.running import RunningStack, until

__all__ = ["cdn", "stack"]

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

VIDEOS = [each for each in EXAMPLES if each.task.startswith("video.")]
PROMISED = {
    14: (1920, 1088, 360, 60),
    15: (1920, 1088, 180, 30),
    16: (2048, 1152, 360, 60),
    17: (1920, 1088, 360, 60),
    18: (1280, 1280, 615, 60),
    19: (320, 192, 0, 60),
}
"""Width, height, frames and rate: 6 s at 60 a second; 257 frames at 25 a second become 256 × 60 ÷ 25 + 1 = 615.4."""


@pytest.mark.parametrize("example", VIDEOS, ids=[f"{each.number}-{each.task}" for each in VIDEOS])
def test_it_becomes_the_film_that_was_promised(example: Example, stack: RunningStack, cdn: str, tmp_path: Path) -> None:
    body = {**filled(example.body, cdn), "idempotencyKey": f"example-{example.number}"}
    answer = stack.call("POST", "/media/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job = stack.finished(answer.json()["jobId"])
    assert job["status"] == "succeeded", job
    assert job["billing"]["amountMicros"] == example.micros
    assert job["billing"]["state"] == "captured"
    width, height, frames, fps = PROMISED[example.number]
    if example.task == "video.combine":
        # Three frames at 60 a second are cut from the second clip.
        frames = round((2 * Fraction(CLIP_FRAMES, CLIP_FPS) - Fraction(3, 60)) * 60)
    else:
        assert (job["engine"], job["standIn"]) == ("ltx-video", True)
    primary = job["outputs"][0]
    assert (primary["width"], primary["height"], primary["frames"], primary["fps"]) == (width, height, frames, fps)
    (url,) = job["downloadableOutputUrls"]
    path = tmp_path / "film.mp4"
    path.write_bytes(httpx.get(url, trust_env=False).content)
    seen = probe(path)
    assert (seen.width, seen.height, seen.frames, seen.rate, seen.variable) == (
        width,
        height,
        frames,
        Fraction(fps),
        False,
    )
    assert seen.duration == Fraction(frames, fps)
    heard = decode(path, max_seconds=60, max_bytes=500_000_000)
    assert heard.shape[1] == round(Fraction(frames, fps) * 48_000)
    if "referenceAudioUrl" in example.body["input"]:
        _carries(heard)


def _carries(heard: npt.NDArray[np.float32]) -> None:
    """The caller's sine, up to the codecs, and silence behind it."""
    given = tone(SOUND_SECONDS)
    half = given.shape[1] // 2
    assert float(np.abs(heard[:, 2_000:half] - given[:, 2_000:half]).max()) < 0.05
    assert float(np.abs(heard[:, given.shape[1] + 5_000 :]).max()) < 0.01


def test_what_dies_behind_the_checkpoint_begins_behind_it(stack: RunningStack, cdn: str) -> None:
    given = {"prompt": "a fox", "durationFrames": 257, "width": 1280, "height": 704}
    answer = stack.call("POST", "/media/jobs", json={"task": "video.generate", "input": given})
    job_id = answer.json()["jobId"]
    until(lambda: stack.job(job_id)["stage"] == "rife" and stack.job(job_id)["progress"] > 0.76, "RIFE at work")
    (replica,) = stack.processes("ray::ServeReplica:rife:Replica")
    replica.kill()
    job = stack.finished(job_id)
    assert job["status"] == "succeeded", job
    assert [each["outcome"] for each in job["details"]["attempts"]] == ["segment_ended", "replica_died", "succeeded"]
    assert [each["name"] for each in job["details"]["stages"]] == ["ltx-video", "rife", "rife"]
    assert all(
        each["gpuSeconds"] > 0 for each in job["details"]["stages"] if each["endedAt"] and each["name"] != "rife"
    )
    assert job["outputs"][0]["frames"] == 513
    assert job["billing"]["state"] == "captured"


def test_a_missing_clip_fails_the_job_at_no_cost_and_is_named(stack: RunningStack, cdn: str) -> None:
    urls = [f"{cdn}/a.mp4"] * 49
    given = {"videoUrls": [*urls[:30], f"{cdn}/gone.nothing", *urls[30:]]}
    answer = stack.call("POST", "/media/jobs", json={"task": "video.combine", "input": given})
    job = stack.finished(answer.json()["jobId"])
    assert (job["status"], job["error"], job["failure"]["path"]) == ("failed", "fetch_failed", "videoUrls[30]")
    assert job["billing"]["state"] == "released"
    assert job["downloadableOutputUrls"] == []
