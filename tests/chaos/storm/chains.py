"""The storm's chain of two segments: a run on one pool, its checkpoint in the store, a run on another pool from there."""

from __future__ import annotations

from typing import Any

from cluster.steps import Steps
from jobs.leases import Outcome
from tests.chaos.storm import tasks
from tests.chaos.storm.engine import Request
from tests.chaos.storm.fleet import FIRST, SECOND

_MIME_TYPE = "video/mp4"


async def first(steps: Steps) -> dict[str, Any]:
    """The first segment; returns its checkpoint."""
    made = await steps.model(FIRST, Request(steps.input["prompt"], steps.input["seed"]))
    content = await steps.cpu("draw", tasks.draw, made.result)
    (written,) = await steps.publish({"mezzanine.mp4": (content, _MIME_TYPE)})
    return {"key": written["key"], "sha256": written["sha256"]}


async def second(steps: Steps) -> Outcome:
    """The second segment, which begins with what the first one wrote."""
    checkpoint = steps.lease.checkpoint
    assert checkpoint is not None
    content = await steps.cpu("read", tasks.read, checkpoint["key"], checkpoint["sha256"])
    made = await steps.model(SECOND, Request(steps.input["prompt"], steps.input["seed"] ^ 1))
    (clip,) = await steps.publish({"clip.mp4": (content, _MIME_TYPE)})
    return Outcome(
        outputs=({"role": "primary", **clip},),
        upstream=dict(made.details),
        engine=made.engine,
        weights_digest=made.weights_digest,
        stand_in=made.stand_in,
        replica=made.replica,
    )
