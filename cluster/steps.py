"""The steps that chains are made of, for one leased segment.

Small steps are Ray tasks, the model step is one streaming call to a replica. Nothing here is retried by Ray: a failed step
ends the lease, and the job's own rules decide what follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve._private.constants import SERVE_NAMESPACE

from cluster import work
from core.database import UNAVAILABLE, patiently
from core.egress import FetchFailed
from core.log import logger
from deployments.messages import Call, Faulted, Finished, Halted, Progress, Started
from jobs.leases import Leases
from jobs.models import Lease
from media.errors import MediaError

log = logger(__name__)

_PROGRESS_SECONDS = 0.5
_REPLICA_WAIT_SECONDS = 120.0
_STOP_GRACE_SECONDS = 2.0
_MODEL_SHARE = 0.95
"""Share of a job's progress that its model step makes up; encoding and publishing are the rest."""


class LeaseLost(Exception):
    """The fence is late: the job belongs to somebody else, or has ended."""


class JobStopped(Exception):
    """The job stopped on request. `step` is the engine's last one, None when it never ran."""

    def __init__(self, step: int | None = None, gpu_released_at: datetime | None = None) -> None:
        super().__init__("the job was stopped")
        self.step = step
        self.gpu_released_at = gpu_released_at


class EngineFailed(Exception):
    """The engine reported a fault; the attempt counts. With `recycle` its replica is ending itself."""

    def __init__(self, code: str, message: str, *, recycle: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.recycle = recycle


class NoReplica(Exception):
    """No replica took the call in time; nobody's fault, so the attempt does not count."""


class StepFailed(Exception):
    """A small step broke on our side; the attempt counts."""


@dataclass(frozen=True)
class ModelResult:
    """What a model step yields: a reference to the engine's result, and what made it."""

    result: Any
    details: dict[str, Any]
    replica: str
    engine: str
    weights_digest: str
    stand_in: bool


class Steps:
    """One lease's way through its chain. `stop` ends the step under way, as gently as that step can."""

    def __init__(self, lease: Lease, leases: Leases) -> None:
        self.lease = lease
        self.input = lease.effective_input
        self._leases = leases
        self._stop = asyncio.Event()
        self._progress_at = 0.0

    def stop(self) -> None:
        """Stop the job at the next point where it can."""
        self._stop.set()

    @asynccontextmanager
    async def stage(self, name: str) -> AsyncIterator[dict[str, float]]:
        """Note a step's start and end; the block may set `gpu_seconds` in the dict it gets.

        Raises:
            LeaseLost: the fence is late.
            JobStopped: a stop was asked for before the step began.
        """
        if self._stop.is_set():
            raise JobStopped
        if not await patiently(lambda: self._leases.stage_begin(self.lease, name)):
            raise LeaseLost
        spent: dict[str, float] = {"gpu_seconds": 0.0}
        try:
            yield spent
        finally:
            await patiently(lambda: self._leases.stage_end(self.lease, name, spent["gpu_seconds"]))

    async def fetch(self, references: Sequence[Any]) -> list[Any]:
        """References to decoded pictures (uint8, (height, width, 3)), one per URL or stored input; [] costs nothing.

        Raises:
            FetchFailed: a URL could not be fetched; the job fails at no cost.
            MediaError: what was fetched is no picture we take.
        """
        if not references:
            return []
        async with self.stage("fetch"):
            return [await self._task(work.fetch_image, reference) for reference in references]

    async def model(self, pool: str, request: Any) -> ModelResult:
        """Run an engine's request on a replica of `pool`.

        Raises:
            JobStopped: the permit was lost, or a stop came before a replica took the call.
            EngineFailed: the engine reported a fault.
            NoReplica: none took the call within two minutes.
            RayActorError: the replica died.
        """
        async with self.stage(pool) as spent:
            return await self._converse(pool, request, spent)

    async def cpu(self, name: str, task: Callable[..., Any], *arguments: Any) -> Any:
        """Run `task` (a function of cluster.work) as a Ray task; object references among the arguments are resolved.

        Raises:
            JobStopped: a stop was asked for while it ran.
            StepFailed: it raised something that is not the caller's fault.
        """
        async with self.stage(name):
            return await self._task(task, *arguments)

    async def publish(self, files: dict[str, tuple[Any, str]]) -> list[dict[str, Any]]:
        """Store named contents (`{"image.webp": (bytes or a reference, mime type)}`) under this attempt's own keys."""
        async with self.stage("publish"):
            folder = f"jobs/{self.lease.job_id}/{self.lease.fence}"
            return [
                await self._task(work.publish, f"{folder}/{name}", content, mime_type)
                for name, (content, mime_type) in files.items()
            ]

    async def _task(self, function: Callable[..., Any], *arguments: Any) -> Any:
        reference = work.remote(function, *arguments)
        stop = asyncio.ensure_future(self._stop.wait())
        result = asyncio.ensure_future(_awaited(reference))
        try:
            await asyncio.wait({stop, result}, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            raise JobStopped
        except RayTaskError as error:
            cause: Exception = error.as_instanceof_cause()  # type: ignore[no-untyped-call]
            if isinstance(cause, (MediaError, FetchFailed)):
                raise cause from None
            raise StepFailed(str(error)) from error
        finally:
            if not result.done():
                ray.cancel(reference)
                result.cancel()
            stop.cancel()

    async def _converse(self, pool: str, request: Any, spent: dict[str, float]) -> ModelResult:
        call = Call(self.lease.job_id, self.lease.fence, request)
        stream: Any = serve.get_app_handle(pool).options(method_name="run", stream=True).remote(call)
        started: Started | None = None
        stop = asyncio.ensure_future(self._stop.wait())
        pending = asyncio.ensure_future(anext(stream))
        try:
            while True:
                limit = _REPLICA_WAIT_SECONDS if started is None else None
                done, _ = await asyncio.wait({pending, stop}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    raise NoReplica(f"no replica of {pool} took the call within {limit} s")
                if stop.done() and not pending.done():
                    if started is None:
                        raise JobStopped
                    await asyncio.wait({pending}, timeout=started.stop_limit_s + _STOP_GRACE_SECONDS)
                    if not pending.done():
                        await _kill(started.replica)
                        raise JobStopped
                try:
                    message = pending.result()
                except RayTaskError as error:
                    raise EngineFailed("engine_error", str(error)) from error
                match message:
                    case Started():
                        started = message
                    case Progress(step, total):
                        await self._progress(step / total * _MODEL_SHARE)
                    case Finished():
                        assert started is not None
                        spent["gpu_seconds"] = message.gpu_seconds
                        return ModelResult(
                            message.result,
                            message.details,
                            started.replica,
                            started.engine,
                            started.weights_digest,
                            started.stand_in,
                        )
                    case Halted():
                        spent["gpu_seconds"] = message.gpu_seconds
                        raise JobStopped(message.step, message.gpu_released_at)
                    case Faulted():
                        spent["gpu_seconds"] = message.gpu_seconds
                        raise EngineFailed(message.code, message.message, recycle=message.recycle)
                pending = asyncio.ensure_future(anext(stream))
        finally:
            stop.cancel()
            if not pending.done():
                pending.cancel()
                stream.cancel()
            await asyncio.gather(pending, stop, return_exceptions=True)

    async def _progress(self, fraction: float) -> None:
        if time.monotonic() - self._progress_at < _PROGRESS_SECONDS:
            return
        self._progress_at = time.monotonic()
        with contextlib.suppress(*UNAVAILABLE):
            if not await self._leases.progress(self.lease, fraction):
                raise LeaseLost


async def _kill(replica: str) -> None:
    """The last resort against an engine that stops neither by its permit nor by a cancelled call."""
    log.error("a replica did not stop in time and is killed", replica=replica)
    with contextlib.suppress(ValueError):
        ray.kill(await asyncio.to_thread(ray.get_actor, replica, SERVE_NAMESPACE))


async def _awaited(reference: Any) -> Any:
    return await reference
