"""image.generate: fetch the references, run the model, deliver the picture."""

from __future__ import annotations

from cluster.chains.pictures import decoding, delivered, listed
from cluster.seeds import seed_of
from cluster.steps import Steps
from jobs.leases import Outcome
from models.qwen_image import ImageRequest
from tasks import image_generate
from tasks.registry import TASKS


async def generate(steps: Steps) -> Outcome:
    """The only segment."""
    given = steps.input
    references = await steps.fetch(listed("referenceImages", given["referenceImages"]))
    seed, adjustments = await seed_of(steps)
    (pool,) = TASKS[steps.lease.task].pools(given)
    request = ImageRequest(
        prompt=given["prompt"],
        negative_prompt=given["negativePrompt"],
        width=given["width"],
        height=given["height"],
        steps=image_generate.steps(given),
        seed=seed,
        references=tuple(each.pixels for each in references),
    )
    made = await steps.model(pool, request)
    return await delivered(
        steps, made, (given["width"], given["height"]), adjustments=(*decoding(references), *adjustments)
    )
