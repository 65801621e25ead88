"""image.generate: fetch the references, run the model, encode, publish."""

from __future__ import annotations

from cluster import work
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
    (pool,) = TASKS[steps.lease.task].pools(given)
    request = ImageRequest(
        prompt=given["prompt"],
        negative_prompt=given["negativePrompt"],
        width=given["width"],
        height=given["height"],
        steps=image_generate.steps(given),
        seed=given["seed"],
        references=tuple(references),
    )
    made = await steps.model(pool, request)
    kind = given["outputFormat"]
    content = await steps.cpu("encode", work.encode_image, made.result, kind, given["width"], given["height"])
    (artifact,) = await steps.publish({f"image.{kind}": (content, MIME_TYPES[kind])})
    output = {"role": "primary", **artifact, "width": given["width"], "height": given["height"]}
    return Outcome(
        outputs=(output,),
        upstream=made.details,
        engine=made.engine,
        weights_digest=made.weights_digest,
        stand_in=made.stand_in,
        replica=made.replica,
    )
