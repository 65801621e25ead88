"""One call to a replica of a pool: its messages are heard to the end, a stop is driven home.

A stop reaches the engine through its permit first. When the engine goes on past its step limit all the same, cancelling the
call tells its replica; when nothing is heard of it any more, its process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve.exceptions import RayServeException

from core.clock import now
from core.log import logger
from deployments.messages import Call, End, Faulted, Finished, Halted, Message, Progress, Started, Unstored
from storage import StoreUnavailable

log = logger(__name__)

REPLICA_WAIT_SECONDS = 120.0
_STOP_GRACE_SECONDS = 2.0
_KILL_SECONDS = 5.0
"""How long after a kill the replica's end is waited for."""
_CONTROL_SECONDS = 10.0
"""How long a question to Ray's or Serve's control plane may take."""


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
    """No replica began the call; nobody's fault, so the attempt does not count."""


@dataclass(frozen=True)
class ModelResult:
    """What a model step yields: a reference to the engine's result, and what made it."""

    result: Any
    details: dict[str, Any]
    replica: str
    engine: str
    weights_digest: str
    stand_in: bool


class Conversation:
    """One call. `gpu_seconds` is known once it has ended."""

    def __init__(self, pool: str, stop: asyncio.Event) -> None:
        self.gpu_seconds = 0.0
        self._pool = pool
        self._stop = stop
        self._started: Started | None = None
        self._last_step: int | None = None
        self._stop_by = math.inf

    async def hold(
        self,
        call: Call,
        on_progress: Callable[[float], Awaitable[None]],
        on_preview: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> ModelResult:
        """Say `call` and listen; `on_progress` is told the share that is done (0…1), and may end the call by raising.

        `on_preview` is given a small WebP file of what there is so far, when the engine sends one.

        Raises:
            JobStopped: the permit was lost, or `stop` was set.
            EngineFailed: the engine reported a fault.
            NoReplica: none began the call in time, or it died before it did.
            RayActorError: the replica died under the call.
            StoreUnavailable: the store did not take the result, or give what it is made of.
        """
        try:
            return await self._listen((await _handle(self._pool)).remote(call), on_progress, on_preview)
        except RayServeException as error:
            _handles.pop(self._pool, None)
            if self._started is None:
                raise NoReplica(f"Serve did not take a call to {self._pool}") from error
            raise
        except NoReplica:
            _handles.pop(self._pool, None)
            raise

    async def _listen(
        self,
        stream: Any,
        on_progress: Callable[[float], Awaitable[None]],
        on_preview: Callable[[bytes], Awaitable[None]] | None,
    ) -> ModelResult:
        stop = asyncio.ensure_future(self._stop.wait())
        pending = asyncio.ensure_future(anext(stream))
        over = False
        try:
            while True:
                await self._await_message(pending, stop, stream)
                over = pending.exception() is not None or isinstance(pending.result(), End)
                message = self._heard(pending)
                if isinstance(message, Started):
                    self._started = message
                elif isinstance(message, Progress):
                    self._last_step = message.step
                    if time.monotonic() > self._stop_by:
                        raise JobStopped(self._last_step)
                    await on_progress(message.step / message.total)
                    if message.preview is not None and on_preview is not None:
                        await on_preview(message.preview)
                else:
                    return self._concluded(message)
                pending = asyncio.ensure_future(anext(stream))
        finally:
            stop.cancel()
            if not over:
                pending.cancel()
                stream.cancel()
            await asyncio.gather(pending, stop, return_exceptions=True)

    async def _await_message(self, pending: asyncio.Future[Message], stop: asyncio.Future[Any], stream: Any) -> None:
        limit = REPLICA_WAIT_SECONDS if self._started is None else None
        done, _ = await asyncio.wait({pending, stop}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise NoReplica(f"no replica of {self._pool} took the call within {limit} s")
        if not stop.done():
            return
        if self._started is None:
            if not pending.done():
                raise JobStopped
            return
        silence = self._started.stop_limit_s + _STOP_GRACE_SECONDS
        self._stop_by = min(self._stop_by, time.monotonic() + silence)
        await asyncio.wait({pending}, timeout=silence)
        if not pending.done():
            await _kill(self._started.replica)
            raise JobStopped(self._last_step, await self._released(pending, stream))

    async def _released(self, pending: asyncio.Future[Message], stream: Any) -> datetime | None:
        """When the killed replica was gone, or had stopped after all; None when neither is heard of in time."""
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                message = await pending
                while not isinstance(message, End):
                    message = await anext(stream)
        except RayActorError:
            return now()
        except (TimeoutError, RayError, RayServeException) as error:
            log.error("a killed replica's end was not heard", pool=self._pool, error=repr(error))
            return None
        self.gpu_seconds = message.gpu_seconds
        return message.gpu_released_at if isinstance(message, Halted) else None

    def _heard(self, pending: asyncio.Future[Message]) -> Message:
        try:
            return pending.result()
        except RayTaskError as error:
            raise EngineFailed("engine_error", str(error)) from error
        except (RayError, RayServeException) as error:
            if self._started is None:
                raise NoReplica(f"no replica of {self._pool} began the call ({type(error).__name__})") from error
            raise

    def _concluded(self, end: End) -> ModelResult:
        self.gpu_seconds = end.gpu_seconds
        match end:
            case Finished():
                assert self._started is not None
                return ModelResult(
                    end.result,
                    end.details,
                    self._started.replica,
                    self._started.engine,
                    self._started.weights_digest,
                    self._started.stand_in,
                )
            case Halted():
                raise JobStopped(end.step, end.gpu_released_at)
            case Faulted():
                raise EngineFailed(end.code, end.message, recycle=end.recycle)
            case Unstored():
                raise StoreUnavailable(end.reason, end.advice)


_handles: dict[str, Any] = {}
"""By pool. A handle follows its application through redeploys; asking Serve's controller for it costs as much as a call."""


async def _handle(pool: str) -> Any:
    if pool not in _handles:
        try:
            async with asyncio.timeout(_CONTROL_SECONDS):
                found: Any = await asyncio.to_thread(serve.get_app_handle, pool)
        except TimeoutError:
            raise NoReplica(f"Serve gave no handle to {pool} within {_CONTROL_SECONDS} s") from None
        _handles[pool] = found.options(method_name="run", stream=True)
    return _handles[pool]


async def _kill(replica: str) -> None:
    log.error("a replica did not stop in time and is killed", replica=replica)
    with contextlib.suppress(ValueError, TimeoutError):
        async with asyncio.timeout(_CONTROL_SECONDS):
            ray.kill(await asyncio.to_thread(ray.get_actor, replica, SERVE_NAMESPACE))
