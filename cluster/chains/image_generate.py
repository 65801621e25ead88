"""image.generate: fetch the references, run the model, encode, publish."""

from __future__ import annotations

from typing import Any

from cluster import work
from cluster.conversation import ModelResult
from cluster.seeds import seed_of
from cluster.steps import Steps
from jobs.leases import Outcome
from media.image import MIME_TYPES
from models.qwen_image import ImageRequest
from tasks import image_generate
from tasks.registry import TASKS


async def generate(steps: Steps) -> Outcome:
    """The only segment."""
    given = steps.input
    references = await steps.fetch(given["referenceImages"])
    seed, adjustments = await seed_of(steps)
    (pool,) = TASKS[steps.lease.task].pools(given)
    request = ImageRequest(
        prompt=given["prompt"],
        negative_prompt=given["negativePrompt"],
        width=given["width"],
        height=given["height"],
        steps=image_generate.steps(given),
        seed=seed,
        references=tuple(references),
    )
    made = await steps.model(pool, request)
    return await published(steps, made, given["width"], given["height"], adjustments)


async def published(
    steps: Steps, made: ModelResult, width: int, height: int, adjustments: list[dict[str, Any]]
) -> Outcome:
    """The picture encoded at the promised canvas (pixels) and stored; what the engine changed joins `adjustments`."""
    kind = steps.input["outputFormat"]
    content = await steps.cpu("encode", work.encode_image, made.result, kind, width, height)
    (artifact,) = await steps.publish({f"image.{kind}": (content, MIME_TYPES[kind])})
    upstream = dict(made.details)
    return Outcome(
        outputs=({"role": "primary", **artifact, "width": width, "height": height},),
        adjustments=(*adjustments, *upstream.pop("adjustments", ())),
        upstream=upstream,
        engine=made.engine,
        weights_digest=made.weights_digest,
        stand_in=made.stand_in,
        replica=made.replica,
    )
