"""The real engine on two replicas of a real Serve: a seed gives the same picture on each of them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from ray import serve

from core.database import Database
from deployments.messages import Call, Finished, Message, Started
from deployments.replica import Replica, ReplicaArgs
from models.qwen_image import ImageRequest
from tests.leasing import leased, new_pool, session

APPLICATION = "pair"


async def said(call: Call) -> list[Message]:
    handle: Any = serve.get_app_handle(APPLICATION)
    return [message async for message in handle.options(method_name="run", stream=True).remote(call)]


async def test_the_same_seed_gives_the_same_picture_on_every_replica(
    ray_cluster: None, cluster_database: Database
) -> None:
    deployment: Any = serve.deployment(
        Replica, name="Replica", num_replicas=2, max_ongoing_requests=1, ray_actor_options={"num_cpus": 0.1}
    )
    args = ReplicaArgs(pool=APPLICATION, engine="qwen-image", weights="tiny:qwen-image", canvas_cap=64 * 64, step_cap=2)
    await asyncio.to_thread(serve.run, deployment.bind(args), name=APPLICATION, route_prefix=None)
    try:
        async with session(cluster_database) as number:
            calls = []
            for seed in (7, 7, 8):
                lease = await leased(cluster_database, number, new_pool())
                request = ImageRequest(prompt="a fox", width=512, height=512, steps=30, seed=seed)
                calls.append(Call(lease.job_id, lease.fence, request))
            first, second = await asyncio.gather(said(calls[0]), said(calls[1]))
            other = await said(calls[2])
        pictures = []
        for messages in (first, second, other):
            end = messages[-1]
            assert isinstance(end, Finished)
            assert (end.details["steps"], len(messages)) == (2, 4), "the caps of the fleet hold"
            pictures.append((await end.result).pixels)
        starts = [messages[0] for messages in (first, second)]
        assert isinstance(starts[0], Started)
        assert isinstance(starts[1], Started)
        assert starts[0].replica != starts[1].replica
        assert starts[0].weights_digest == starts[1].weights_digest
        assert pictures[0].shape == (64, 64, 3)
        assert np.array_equal(pictures[0], pictures[1])
        assert not np.array_equal(pictures[0], pictures[2])
    finally:
        await asyncio.to_thread(serve.delete, APPLICATION)
