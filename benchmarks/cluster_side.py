"""`python -m benchmarks.cluster_side`: a private Ray with replicas of an instant engine, a dispatcher, bare handle calls.

Reads `{"url", "measure", "replicas", "count"}`, with `measure` one of `model_step`, `image_overhead` and `edit_overhead`,
and writes the rounds of both sides. Its environment has the service's settings.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import uvloop

from benchmarks import edit_side, submission
from benchmarks.measuring import Round, in_turns, scaled
from cluster.ray_environment import environment
from core.database import Database
from core.settings import Settings

POOL = "qwen-image"
_BARE = "bare"
_ROUNDS = scaled(3)


def _deploy(replicas: int, weights: str) -> None:
    from ray import serve

    from benchmarks.engines import NAME, Bare, InstantReplica
    from deployments.replica import ReplicaArgs

    options: dict[str, Any] = {
        "num_replicas": replicas,
        "max_ongoing_requests": 1,
        "ray_actor_options": {"num_cpus": 0.1},
        "graceful_shutdown_timeout_s": 1,
    }
    model: Any = serve.deployment(InstantReplica, name="Replica", **options)
    bare: Any = serve.deployment(Bare, name="Bare", **options)
    args = ReplicaArgs(pool=POOL, engine=NAME, weights=f"dir:{weights}", stand_in=True)
    serve.run(model.bind(args), name=POOL, route_prefix=None)
    serve.run(bare.bind(), name=_BARE, route_prefix=None)


async def _bare_call() -> Any:
    from ray import serve

    from benchmarks.queues.ours import INPUT
    from deployments.messages import Finished

    handle: Any = serve.get_deployment_handle("Bare", _BARE)
    messages = [each async for each in handle.options(method_name="run", stream=True).remote(INPUT)]
    assert isinstance(messages[-1], Finished)
    return messages[-1].result


async def _bare_calls(count: int, concurrency: int) -> Round:
    left = iter(range(count))
    latencies: list[float] = []

    async def one_after_the_other() -> None:
        for _ in left:
            before = time.perf_counter()
            await _bare_call()
            latencies.append(time.perf_counter() - before)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(concurrency)))
    return Round.of(latencies, time.perf_counter() - began)


async def _model_steps(database: Database, count: int) -> Round:
    """Jobs that were submitted before; the clock runs from the moment their pool is opened."""
    from benchmarks.queues import ours
    from jobs.wakeup import CHANNEL, Wakeup

    await database.execute("UPDATE pool SET paused = true")
    await ours.submit_all(database, await submission.customers(database, 20), count, POOL, Wakeup(database))
    began = await database.fetch_value("UPDATE pool SET paused = false RETURNING clock_timestamp()")
    await database.execute("SELECT pg_notify($1, '')", CHANNEL)
    await ours.ended(database)
    seconds = await ours.until(database, began)
    held = await database.fetch(
        "SELECT extract(epoch FROM ended_at - started_at)::float8 AS s FROM attempt WHERE started_at > $1", began
    )
    return Round.of([row["s"] for row in held], seconds)


async def _model_step(steps: Any) -> Any:
    from jobs.leases import Outcome
    from models.qwen_image import ImageRequest

    given = steps.input
    request = ImageRequest(
        prompt=given["prompt"], width=given["width"], height=given["height"], steps=2, seed=given["seed"]
    )
    made = await steps.model(POOL, request)
    return Outcome(engine=made.engine, replica=made.replica)


async def _image_jobs(database: Database, account: UUID, count: int) -> Round:
    """One image after the other, from before its submit to its end as recorded, without the engine's own time."""
    from benchmarks.queues import ours
    from jobs.store import Jobs
    from jobs.wakeup import CHANNEL

    jobs = Jobs(database)
    latencies = []
    for _ in range(count):
        began = await database.fetch_value("SELECT clock_timestamp()")
        job = (await jobs.submit(ours.submission_of(account, POOL))).job
        await database.execute("SELECT pg_notify($1, '')", CHANNEL)
        await ours.ended(database)
        done = await jobs.get(account, job.id, details=True)
        assert done.finished_at is not None
        engine = sum(stage.gpu_seconds for stage in done.stages)
        latencies.append((done.finished_at - began).total_seconds() - engine)
    return Round.of(latencies, sum(latencies))


async def _direct_images(count: int) -> Round:
    """One bare call after the other; its picture is encoded and written, with a thumbnail, in a thread of this process."""
    from benchmarks.queues.ours import INPUT, TASK
    from cluster import work
    from core.ids import uuid7
    from media.preview import MIME_TYPE
    from media.provenance import Recipe

    recipe = Recipe(
        task=TASK, engine="bare", weights_digest="sha256:00", stand_in=True, seed=INPUT["seed"], input_sha256="00"
    )
    named = [("image.webp", "image/webp"), ("thumbnail.webp", MIME_TYPE)]

    def delivered(made: Any) -> None:
        content, small = work.encode_picture(made, "webp", (INPUT["width"], INPUT["height"]), recipe)
        work.publish(f"jobs/{uuid7()}/1", named, content, small.content)

    latencies = []
    for _ in range(count):
        before = time.perf_counter()
        await asyncio.to_thread(delivered, await (await _bare_call()))
        latencies.append(time.perf_counter() - before)
    return Round.of(latencies, sum(latencies))


async def measure(order: dict[str, Any]) -> list[list[Round]]:
    """Rounds of ours, then of the yardstick."""
    from benchmarks.queues import ours
    from cluster.chains import image_generate
    from jobs import pools

    replicas, count = order["replicas"], order["count"]
    async with AsyncExitStack() as stack:
        database = Database(order["url"], size=16)
        await database.open()
        stack.push_async_callback(database.close)
        (account,) = await submission.customers(database, 1)
        pool = POOL
        sides: list[Callable[[], Awaitable[Round]]]
        match order["measure"]:
            case "model_step":
                chain: Any = _model_step
                sides = [partial(_model_steps, database, count), partial(_bare_calls, count, replicas)]
            case "image_overhead":
                chain = image_generate.generate
                sides = [partial(_image_jobs, database, account, count), partial(_direct_images, count)]
            case _:
                pool = edit_side.POOL
                chain, sides = edit_side.sides(database, account, count)
        mine, theirs = sides
        await pools.declare(database, frozenset({pool}))
        await stack.enter_async_context(ours.dispatching({pool: replicas}, chain))
        return await in_turns(_ROUNDS, mine, theirs)


def main() -> None:
    """The command."""
    order = json.load(sys.stdin)
    settings = Settings()
    os.environ.update(environment(settings))
    from cluster import bring_up

    bring_up.start(settings)
    with tempfile.TemporaryDirectory(prefix="kt") as weights:
        (Path(weights) / "weights").write_text("none")
        try:
            edit_side.deploy() if order["measure"] == "edit_overhead" else _deploy(order["replicas"], weights)
            rounds = uvloop.run(measure(order))
        finally:
            bring_up.stop()
    print(json.dumps([[asdict(each) for each in side] for side in rounds]))


if __name__ == "__main__":
    main()
