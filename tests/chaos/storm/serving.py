"""The Serve applications of a storm: the real replica and the real dispatcher, which also write into the journal."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from ray import serve
from ray.serve import Application

from cluster import dispatcher as dispatching
from cluster import work
from cluster.chains.registry import CHAINS
from cluster.dispatcher import Dispatcher
from core.settings import PREFIX
from deployments.messages import Call, End, Faulted, Message
from deployments.replica import Replica, ReplicaArgs
from jobs.permits import Permit
from tests.chaos.storm import chains, disguise, tasks
from tests.chaos.storm.ground import folder, note, told

disguise.wear()


async def _unwatched(_permit: Permit) -> None:
    """The planted bug: nobody asks again whether the permit holds."""
    await asyncio.Event().wait()


class StormReplica(Replica):
    """Notes when it is ready, when its engine begins with a call, and when it is idle again."""

    def __init__(self, args: ReplicaArgs) -> None:
        if told("permit").get("planted"):
            setattr(Permit, "_watch", _unwatched)  # noqa: B010
        super().__init__(args)
        note("replica", pool=args.pool)

    async def _engage(self, call: Call, request: Any, messages: asyncio.Queue[Message], stop: threading.Event) -> End:
        said = {"job": str(call.job_id), "fence": call.fence, "pool": self._args.pool}
        note("begin", **said)
        end: End | None = None
        try:
            end = await super()._engage(call, request, messages, stop)
            return end
        finally:
            note("end", **said, how=type(end).__name__, leaves=isinstance(end, Faulted) and end.recycle)


class StormDispatcher(Dispatcher):
    """Runs the storm's own chain too, and Ray tasks in disguise."""

    def __init__(self) -> None:
        disguise.wear()
        setattr(dispatching, "CHAINS", {**CHAINS, "video.generate": (chains.first, chains.second)})  # noqa: B010
        setattr(work, "_task", tasks.Troubled)  # noqa: B010
        os.environ[f"{PREFIX}DATABASE_URL"] = f"postgresql://postgres@/killatamata?host={folder() / 'proxy'}&port=5432"
        super().__init__()
        note("dispatcher")


def model(args: dict[str, Any]) -> Application:
    """The application of a pool."""
    deployment: Any = serve.deployment(StormReplica, name="Replica")
    application: Application = deployment.bind(ReplicaArgs.model_validate(args))
    return application


def dispatcher(args: dict[str, Any]) -> Application:
    """The application of the dispatchers."""
    deployment: Any = serve.deployment(StormDispatcher, name="Dispatcher")
    application: Application = deployment.bind()
    return application
