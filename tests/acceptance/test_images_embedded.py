"""Every image request of the public documentation, through the real ingress, on the embedded fleet's engines."""

from __future__ import annotations

import io
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.acceptance.embedded import cdn, stack
from tests.acceptance.public_examples import EXAMPLES, Example, filled
from tests.chaos.running import RunningStack

__all__ = ["cdn", "stack"]

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

IMAGES = [each for each in EXAMPLES if each.task.startswith("image.")]
CANVASES = {0: (1024, 1024), 12: (1536, 1024), 13: (800, 480), 26: (1024, 1024)}
RESIDENT_BYTES = 4 * 1024**3


def delivered(stack: RunningStack, body: dict[str, Any]) -> tuple[dict[str, Any], Image.Image]:
    """The job when it has succeeded, and its picture."""
    answer = stack.call("POST", "/media/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job = stack.finished(answer.json()["jobId"])
    assert job["status"] == "succeeded", job
    (url,) = job["downloadableOutputUrls"]
    with Image.open(io.BytesIO(httpx.get(url, trust_env=False).content)) as picture:
        picture.load()
        return job, picture


@pytest.mark.parametrize("example", IMAGES, ids=[f"{each.number}-{each.task}" for each in IMAGES])
def test_it_becomes_a_picture_of_the_promised_size(example: Example, stack: RunningStack, cdn: str) -> None:
    job, picture = delivered(stack, {**filled(example.body, cdn), "idempotencyKey": f"example-{example.number}"})
    assert (picture.format, picture.size) == ("WEBP", CANVASES[example.number])
    assert (job["standIn"], job["billing"]["state"]) == (True, "captured")
    assert job["billing"]["amountMicros"] == example.micros
    pool = "qwen-image-edit" if example.task == "image.edit" or example.number == 12 else "qwen-image"
    assert job["engine"] == pool
    changed = [change["field"] for change in job["details"]["inputAdjustments"]]
    assert changed == (["sourceImage"] if example.task == "image.edit" else [])


def test_an_edit_depends_on_its_source_its_prompt_and_its_seed_and_on_nothing_else(
    stack: RunningStack, cdn: str
) -> None:
    first, _ = delivered(stack, {"task": "image.generate", "input": {"prompt": "a fox", "width": 512, "height": 512}})
    (made,) = first["downloadableOutputUrls"]
    given = {"prompt": "make it noir", "seed": 3, "outputFormat": "png", "sourceImage": made}
    variants = [
        given,
        given,
        {**given, "seed": 4},
        {**given, "prompt": "other"},
        {**given, "sourceImage": f"{cdn}/x.jpg"},
    ]
    pictures = [delivered(stack, {"task": "image.edit", "input": each})[1].tobytes() for each in variants]
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) == 4


def test_both_engines_are_resident_within_the_memory_of_the_fleet(stack: RunningStack, cdn: str) -> None:
    for task, given in (("image.generate", {}), ("image.edit", {"sourceImage": f"{cdn}/x.jpg"})):
        delivered(stack, {"task": task, "input": {"prompt": "a fox", **given}})
    for pool in ("qwen-image", "qwen-image-edit"):
        assert len(stack.processes(f"ray::ServeReplica:{pool}:Replica")) == 1
    assert stack.memory() < RESIDENT_BYTES
