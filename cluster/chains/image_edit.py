"""image.edit: fetch source and references, find the canvas that follows the source, run the edit model, deliver."""

from __future__ import annotations

from typing import Any

from cluster.chains.pictures import decoding, delivered, listed
from cluster.seeds import seed_of
from cluster.steps import Steps
from jobs.leases import Outcome
from media.arithmetic import EDIT_MAX_ASPECT, edit_canvas
from models.qwen_image import ImageRequest
from tasks import image_generate
from tasks.image_edit import DEFAULT_SIDE
from tasks.registry import TASKS


async def edit(steps: Steps) -> Outcome:
    """The only segment. The source, where there is one, is the model's Picture 1; the references follow it."""
    given = steps.input
    source = given["sourceImage"]
    sources = {} if source is None else {"sourceImage": source}
    pictures = await steps.fetch({**sources, **listed("referenceImages", given["referenceImages"])})
    width = height = DEFAULT_SIDE
    seed, adjustments = await seed_of(steps)
    adjustments += decoding(pictures)
    if source is not None:
        width, height = edit_canvas(*pictures[0].size)
        adjustments += _followed(pictures[0].size, (width, height))
    (pool,) = TASKS[steps.lease.task].pools(given)
    request = ImageRequest(
        prompt=given["prompt"],
        width=width,
        height=height,
        steps=image_generate.steps(given),
        seed=seed,
        references=tuple(each.pixels for each in pictures),
    )
    made = await steps.model(pool, request)
    return await delivered(steps, made, (width, height), adjustments=tuple(adjustments))


def _followed(size: tuple[int, int], canvas: tuple[int, int]) -> list[dict[str, Any]]:
    """What the upright source of `size` had to become to give `canvas`, if anything."""
    if size == canvas:
        return []
    reason = "scaled into 0.25…2 MP, sides rounded down to multiples of 32"
    if max(size) > EDIT_MAX_ASPECT * min(size):
        reason = f"padded to {EDIT_MAX_ASPECT}:1, {reason}"
    given, to = (f"{width}x{height}" for width, height in (size, canvas))
    return [{"field": "sourceImage", "from": given, "to": to, "reason": reason, "at": "run"}]
