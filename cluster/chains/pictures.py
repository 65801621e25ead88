"""What the chains of pictures share: those that came and what was lost of them; the end: encode, publish, report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cluster import work
from cluster.conversation import ModelResult
from cluster.steps import Fetched, Steps
from jobs.leases import Outcome
from media import preview
from media.image import MIME_TYPES
from media.provenance import Recipe
from tasks.registry import TASKS


def listed(field: str, references: Sequence[Any]) -> dict[str, Any]:
    """What the list `field` of the input holds, by its path."""
    return {f"{field}[{index}]": each for index, each in enumerate(references)}


def decoding(pictures: Iterable[Fetched]) -> list[dict[str, Any]]:
    """Adjustments for what was lost when the pictures were decoded."""
    return [change for each in pictures for change in each.adjustments()]


async def delivered(
    steps: Steps, made: ModelResult, size: tuple[int, int], *, adjustments: tuple[dict[str, Any], ...] = ()
) -> Outcome:
    """Publish the picture that `made` refers to at `size` (width, height), with a thumbnail.

    `adjustments` are those made at run time; what the engine could not do as asked joins them.

    Raises:
        JobStopped: a stop was asked for.
        StepFailed: encoding or storing failed.
        StoreUnavailable: the store did not take the files.
    """
    kind = steps.input["outputFormat"]
    content, small = await steps.cpu("encode", work.encode_picture, made.result, kind, size, _recipe(steps, made))
    primary, thumbnail = await steps.publish(
        {f"image.{kind}": (content, MIME_TYPES[kind]), "thumbnail.webp": (small.content, preview.MIME_TYPE)}
    )
    upstream = dict(made.details)
    return Outcome(
        outputs=(
            {"role": "primary", **primary, "width": size[0], "height": size[1], "blurhash": small.blurhash},
            {"role": "thumbnail", **thumbnail, "width": small.width, "height": small.height},
        ),
        adjustments=(*adjustments, *upstream.pop("adjustments", ())),
        upstream=upstream,
        engine=made.engine,
        weights_digest=made.weights_digest,
        stand_in=made.stand_in,
        replica=made.replica,
    )


def _recipe(steps: Steps, made: ModelResult) -> Recipe:
    given = steps.input
    return Recipe(
        task=steps.lease.task,
        engine=made.engine,
        weights_digest=made.weights_digest,
        stand_in=made.stand_in,
        seed=made.details.get("seed", given["seed"]),
        input_sha256=TASKS[steps.lease.task].hash_input(given, seed_drawn=False),
        edited=bool(given.get("sourceImage")),
    )
