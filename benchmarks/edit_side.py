"""`edit_overhead` inside the cluster: jobs of image.edit on the real engine with tiny weights, and the same work by hand.

By hand is what one process must do all the same: decode the source, run the engine, encode, write. Ray gives a replica one
thread of torch, so the hand has one too.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from functools import partial
from typing import Any
from uuid import UUID

from benchmarks.measuring import Round
from core.database import Database
from core.settings import Settings

POOL = "qwen-image-edit"
SIDE = 512
_STEPS = 30
_ARGS = {
    "pool": POOL,
    "engine": POOL,
    "weights": f"tiny:{POOL}",
    "options": {"referencePixels": 16384, "conditionPixels": 12544},
    "stand_in": True,
}
"""As in the embedded fleet, but for its caps: the canvas and the steps are those of the job."""


def deploy() -> None:
    """One replica of the real engine."""
    from ray import serve

    from deployments.replica import Replica, ReplicaArgs

    model: Any = serve.deployment(
        Replica,
        name="Replica",
        num_replicas=1,
        max_ongoing_requests=1,
        ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=1,
    )
    serve.run(model.bind(ReplicaArgs(**_ARGS)), name=POOL, route_prefix=None)


def source() -> bytes:
    """A photograph-like JPEG of 512x512 pixels."""
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    grain = np.random.default_rng(7).integers(0, 24, (SIDE, SIDE, 3))
    waves = np.stack([rows / 2, columns / 2, 127 + 100 * np.sin((rows + columns) / 40)], axis=-1)
    file = io.BytesIO()
    Image.fromarray((waves + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def _given() -> dict[str, Any]:
    from storage import open_store

    content = source()
    digest = hashlib.sha256(content).hexdigest()
    open_store(Settings(), "").put(f"in/{digest}", content, "image/jpeg")
    return {
        "prompt": "turn this scene into a noir poster",
        "sourceImage": {"sha256": digest, "mimeType": "image/jpeg", "bytes": len(content)},
        "referenceImages": [],
        "outputFormat": "webp",
        "highDetail": False,
        "seed": 7,
    }


async def jobs(database: Database, account: UUID, count: int) -> Round:
    """One edit after the other, from before its submit to its end as recorded."""
    from benchmarks.queues import ours
    from jobs.store import Jobs
    from jobs.wakeup import CHANNEL

    store, given, latencies = Jobs(database), _given(), []
    for _ in range(count):
        began = await database.fetch_value("SELECT clock_timestamp()")
        job = (await store.submit(ours.submission_of(account, POOL, "image.edit", given))).job
        await database.execute("SELECT pg_notify($1, '')", CHANNEL)
        await ours.ended(database)
        done = await store.get(account, job.id)
        assert done.finished_at is not None
        latencies.append((done.finished_at - began).total_seconds())
    return Round.of(latencies, sum(latencies))


class ByHand:
    """The same engine and codecs, called one after the other in this process."""

    def __init__(self) -> None:
        import torch

        from models.qwen_image_edit import QwenImageEdit
        from models.weights import resolve

        torch.set_num_threads(1)
        self._engine = QwenImageEdit(_ARGS["options"])  # type: ignore[arg-type]
        self._engine.load(resolve(str(_ARGS["weights"]), Settings().root / "weights"), "cpu")
        self._source = source()

    def _edit(self) -> None:
        from cluster import work
        from core.ids import uuid7
        from media import image, preview
        from media.provenance import Recipe
        from models.qwen_image import ImageRequest

        pixels = image.open_image(self._source).pixels
        request = ImageRequest(
            prompt=_given()["prompt"], width=SIDE, height=SIDE, steps=_STEPS, seed=7, references=(pixels,)
        )
        made = self._engine.run(request, lambda step, total, preview=None, /: None)
        recipe = Recipe(
            task="image.edit", engine=POOL, weights_digest="sha256:00", stand_in=True, seed=7, input_sha256="00"
        )
        content, small = work.encode_picture(made, "webp", (SIDE, SIDE), recipe)
        named = [("image.webp", "image/webp"), ("thumbnail.webp", preview.MIME_TYPE)]
        work.publish(f"jobs/{uuid7()}/1", named, content, small.content)

    async def edits(self, count: int) -> Round:
        """One after the other."""
        latencies = []
        for _ in range(count):
            before = time.perf_counter()
            await asyncio.to_thread(self._edit)
            latencies.append(time.perf_counter() - before)
        return Round.of(latencies, sum(latencies))


def sides(database: Database, account: UUID, count: int) -> tuple[Any, list[Any]]:
    """The chain, then both sides of the comparison."""
    from cluster.chains import image_edit

    return image_edit.edit, [partial(jobs, database, account, count), partial(ByHand().edits, count)]
