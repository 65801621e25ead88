"""The end of every chain whose deliverable is one picture: encode, publish, report."""

from __future__ import annotations

from typing import Any

from cluster import work
from cluster.conversation import ModelResult
from cluster.steps import Steps
from jobs.leases import Outcome
from media import preview
from media.image import MIME_TYPES
from media.provenance import Recipe
from tasks.registry import TASKS


async def delivered(
    steps: Steps,
    made: ModelResult,
    size: tuple[int, int],
    *,
    edited: bool = False,
    adjustments: tuple[dict[str, Any], ...] = (),
) -> Outcome:
    """Publish the picture that `made` refers to at `size` (width, height), with a thumbnail.

    `edited` says that it is a caller's own picture, changed; `adjustments` are those made at run time.

    Raises:
        JobStopped: a stop was asked for.
        StepFailed: encoding or storing failed.
    """
    given = steps.input
    kind = given["outputFormat"]
    recipe = Recipe(
        task=steps.lease.task,
        engine=made.engine,
        weights_digest=made.weights_digest,
        stand_in=made.stand_in,
        seed=given["seed"],
        input_sha256=TASKS[steps.lease.task].hash_input(given, False),
        edited=edited,
    )
    content, small = await steps.cpu("encode", work.encode_picture, made.result, kind, size, recipe)
    primary, thumbnail = await steps.publish(
        {f"image.{kind}": (content, MIME_TYPES[kind]), "thumbnail.webp": (small.content, preview.MIME_TYPE)}
    )
    return Outcome(
        outputs=(
            {"role": "primary", **primary, "width": size[0], "height": size[1], "blurhash": small.blurhash},
            {"role": "thumbnail", **thumbnail, "width": small.width, "height": small.height},
        ),
        upstream=made.details,
        engine=made.engine,
        weights_digest=made.weights_digest,
        stand_in=made.stand_in,
        replica=made.replica,
        adjustments=adjustments,
    )
