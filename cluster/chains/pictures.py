"""The end of every chain whose deliverable is one picture: encode, publish, report."""

from __future__ import annotations

from typing import Any

from cluster import work
from cluster.conversation import ModelResult
from cluster.steps import Steps
from jobs.leases import Outcome
from media.image import MIME_TYPES


async def delivered(
    steps: Steps, made: ModelResult, size: tuple[int, int], *, adjustments: tuple[dict[str, Any], ...] = ()
) -> Outcome:
    """Publish the picture that `made` refers to at `size` (width, height).

    `adjustments` are those made at run time; what the engine could not do as asked joins them.

    Raises:
        JobStopped: a stop was asked for.
        StepFailed: encoding or storing failed.
    """
    kind = steps.input["outputFormat"]
    content = await steps.cpu("encode", work.encode_image, made.result, kind, *size)
    (artifact,) = await steps.publish({f"image.{kind}": (content, MIME_TYPES[kind])})
    upstream = dict(made.details)
    return Outcome(
        outputs=({"role": "primary", **artifact, "width": size[0], "height": size[1]},),
        adjustments=(*adjustments, *upstream.pop("adjustments", ())),
        upstream=upstream,
        engine=made.engine,
        weights_digest=made.weights_digest,
        stand_in=made.stand_in,
        replica=made.replica,
    )
