"""The generic replica: one engine, one call at a time, stopped by its permit.

Serve frees a slot the moment a request is cancelled and leaves a request running when its caller dies. Therefore the engine
is guarded by a lock that a background task holds until the engine's thread has returned, whatever became of the request.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from contextvars import Context
from typing import Annotated, Any

import asyncpg
import ray
from pydantic import BaseModel, ConfigDict, Field
from ray.exceptions import RayError
from structlog.contextvars import bind_contextvars

from core.clock import now
from core.database import UNAVAILABLE, Database
from core.log import configure, logger
from core.settings import Settings
from deployments import clips
from deployments.caps import Caps
from deployments.clips import Sink, StoredClip
from deployments.messages import Call, End, Faulted, Finished, Halted, Message, Progress, Started, Unstored
from jobs.permits import Permit
from jobs.wakeup import STOP_CHANNEL
from models.base import Engine, EngineFault, OnStep, Stopped
from models.registry import engine as make_engine
from models.runtime import limit_memory
from models.weights import Weights, resolve
from storage import Store, StoreUnavailable, open_store

log = logger(__name__)

_LISTEN_RETRY_SECONDS = 2.0
_OBJECTS_SECONDS = 60.0
_FAREWELL_SECONDS = 0.5
"""How long a replica that ends itself waits, so that its last message leaves."""


class ReplicaArgs(BaseModel):
    """The `args` of a model's application in a fleet file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    pool: str = Field(description="The pool's name, which is the application's.")
    engine: str = Field(description="A name of models.registry.")
    weights: str = Field(description="A reference of models.weights: tiny:…, dir:…, package:…, hf:…@revision.")
    device: str = Field("cpu", description="A torch device.")
    canvas_cap: int | None = Field(None, alias="canvasCap", ge=64 * 64, description="Stand-in: most pixels worked on.")
    step_cap: int | None = Field(None, alias="stepCap", ge=2, description="Stand-in: most steps.")
    options: dict[str, Any] = Field(default={}, description="The engine's own options, as its module names them.")
    vram_gib: float | None = Field(
        None, alias="vramGiB", gt=0, description="Most GiB that it may take of the accelerator's memory; None: all."
    )
    max_queue_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        7200, alias="maxQueueSeconds", description="Submits are refused while more work than this waits; null: never."
    )
    stand_in: bool = Field(False, alias="standIn", description="True: not the production weights.")


class Replica:
    """One engine of a pool."""

    def __init__(self, args: ReplicaArgs) -> None:
        self._args = args
        self._settings = Settings()
        self._store = open_store(self._settings, base_url="")
        configure(self._settings.log_level, json=self._settings.log_json)
        self._caps = Caps(args.canvas_cap, args.step_cap)
        self._engine: Engine[Any, Any] = make_engine(args.engine, args.options)
        self._weights = _weights(args.weights, self._engine, self._settings)
        if args.vram_gib is not None:
            limit_memory(args.device, args.vram_gib)
        self._engine.load(self._weights, args.device)
        self._name = ray.get_runtime_context().get_actor_name() or "local"
        self._lock = asyncio.Lock()
        self._database: Database | None = None
        self._permit: Permit | None = None
        self._moved_at: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, call: Call) -> AsyncGenerator[Message]:
        """Work on one call; the stream ends with `Finished`, `Halted` or `Faulted`."""
        messages: asyncio.Queue[Message] = asyncio.Queue()
        stop = threading.Event()
        self._keep(asyncio.create_task(self._work(call, messages, stop)))
        try:
            while True:
                message = await messages.get()
                yield message
                if isinstance(message, End):
                    return
        finally:
            stop.set()

    async def check_health(self) -> None:
        """Called by Serve: an engine that makes no progress for its declared limit is not healthy."""
        moved_at = self._moved_at
        if moved_at is not None and time.monotonic() - moved_at > self._engine.step_limit_s:
            raise RuntimeError(f"{self._args.engine} made no progress for {self._engine.step_limit_s} s")
        self._engine.health()

    async def _open(self) -> Database:
        if self._database is None:
            url = self._settings.database_url
            assert url is not None
            database = Database(url, direct_url=self._settings.database_url_direct, size=2)
            await database.open()
            self._database = database
            # It outlives this call, whose id its lines must not carry.
            self._keep(asyncio.create_task(self._listen(database), context=Context()))
        return self._database

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, database: Database) -> None:
        while True:
            try:
                listener = await database.listen(STOP_CHANNEL)
                try:
                    async for _ in listener:
                        if self._permit is not None:
                            self._permit.wake()
                finally:
                    await listener.close()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.warning("stop notifications lost; the permit is re-read meanwhile", error=repr(error))
            await asyncio.sleep(_LISTEN_RETRY_SECONDS)

    async def _work(self, call: Call, messages: asyncio.Queue[Message], stop: threading.Event) -> None:
        """Every line logged meanwhile carries the job, and the id of the request that submitted it."""
        bind_contextvars(request_id=call.request_id, job=str(call.job_id), fence=call.fence)
        async with self._lock:
            try:
                end = await self._answer(call, messages, stop)
            except Exception as error:
                # Without an end message the stream, and its job with it, would hang for ever.
                log.exception("a call failed")
                end = Faulted("engine_error", f"{type(error).__name__} in the replica", 0.0, recycle=False)
            messages.put_nowait(end)
            if isinstance(end, Faulted) and end.recycle:
                # The lock stays taken: what is left of this process must not begin another call.
                log.error("the replica ends itself", code=end.code, error=end.message)
                await asyncio.sleep(_FAREWELL_SECONDS)
                os._exit(1)

    async def _answer(self, call: Call, messages: asyncio.Queue[Message], stop: threading.Event) -> End:
        try:
            return await self._begin(call, messages, stop)
        finally:
            self._permit = self._moved_at = None

    async def _begin(self, call: Call, messages: asyncio.Queue[Message], stop: threading.Event) -> End:
        permit = await self._permitted(call, stop)
        if permit is None or stop.is_set():
            return Halted(0, 0.0, now())
        try:
            async with asyncio.timeout(_OBJECTS_SECONDS):
                request = await with_objects(call.request)
        except (RayError, TimeoutError) as error:
            # The machine that had them is gone: nobody's fault, and the job's next start makes them anew.
            log.warning("the objects of a call are lost", error=repr(error))
            return Halted(0, 0.0, now())
        messages.put_nowait(
            Started(
                self._name,
                self._args.engine,
                self._weights.digest,
                self._args.stand_in,
                self._engine.step_limit_s,
            )
        )
        async with permit:
            return await self._engage(call, request, messages, stop)

    async def _permitted(self, call: Call, stop: threading.Event) -> Permit | None:
        """The call's permit; None when it does not hold, or cannot be read now: then nothing begins."""
        try:
            permit = self._permit = Permit(await self._open(), call.job_id, call.fence, stop.set)
            return permit if await permit.held() else None
        except UNAVAILABLE as error:
            log.warning("a permit could not be read", error=repr(error))
            return None

    async def _engage(self, call: Call, request: Any, messages: asyncio.Queue[Message], stop: threading.Event) -> End:
        loop = asyncio.get_running_loop()
        request = self._caps.applied(request)
        deadline = self._engine.deadline_s(request)
        started = self._moved_at = time.monotonic()
        last = 0

        def on_step(step: int, total: int, preview: bytes | None = None, /) -> None:
            nonlocal last
            last, self._moved_at = step, time.monotonic()
            if stop.is_set():
                raise Stopped(step)
            loop.call_soon_threadsafe(messages.put_nowait, Progress(step, total, preview))

        def on_rest() -> None:
            # The engine is done. How long a store may take is the store's to say, and the deadline's.
            self._moved_at = None
            if stop.is_set():
                raise Stopped(last)

        work = asyncio.create_task(asyncio.to_thread(self._make, request, call.sink, on_step, on_rest))
        done, _ = await asyncio.wait({work}, timeout=deadline)
        spent = time.monotonic() - started
        if not done:
            return Faulted("deadline", f"the engine exceeded its deadline of {deadline:.0f} s", spent, recycle=True)
        try:
            result, details = work.result()
        except Stopped as halt:
            return Halted(halt.step, spent, now())
        except EngineFault as fault:
            return Faulted(fault.code, str(fault), spent, fault.recycle)
        except StoreUnavailable as error:
            return Unstored(error.reason, error.advice, spent)
        except Exception as error:
            log.exception("the engine failed")
            return Faulted("engine_error", f"{type(error).__name__} in the engine", spent, recycle=False)
        reference = ray.put(result)
        self._keep(asyncio.create_task(self._hold(reference, call)))
        return Finished(reference, spent, details)

    async def _hold(self, reference: Any, call: Call) -> None:
        """Keep a result for as long as its lease lives.

        Ray deletes what nobody refers to, and whoever was sent a reference counts as somebody only some time later.
        """
        over = asyncio.Event()
        async with Permit(await self._open(), call.job_id, call.fence, over.set):
            await over.wait()
        del reference

    def _make(
        self, request: Any, sink: Sink | None, on_step: OnStep, on_rest: Callable[[], None]
    ) -> tuple[Any, dict[str, Any]]:
        """The result, or what became of the clip that it is; and its details, complete only now."""
        with ExitStack() as stack:
            result = self._engine.run(with_clips(request, self._store, stack), on_step)
            made = result if sink is None else clips.take(sink, result, self._store, on_rest)
            return made, result.details


def _weights(reference: str, engine: Engine[Any, Any], settings: Settings) -> Weights:
    cache = settings.root / "weights"
    weights = resolve(reference, cache)
    for name, addition in engine.options.additions().items():
        weights = weights.with_addition(name, resolve(addition.weights, cache, file=addition.file))
    return weights


async def with_objects(request: Any) -> Any:
    """`request` (a dataclass) with the objects in place of the references that its fields, and tuples in them, hold.

    Raises:
        RayError: an object is lost.
    """
    changes: dict[str, Any] = {}
    for each in dataclasses.fields(request):
        value = getattr(request, each.name)
        if isinstance(value, ray.ObjectRef):
            changes[each.name] = await value
        elif isinstance(value, tuple) and any(isinstance(item, ray.ObjectRef) for item in value):
            changes[each.name] = tuple([await item if isinstance(item, ray.ObjectRef) else item for item in value])
    return dataclasses.replace(request, **changes) if changes else request


def with_clips(request: Any, store: Store, stack: ExitStack) -> Any:
    """`request` with clips in place of the stored ones that its fields hold, open until `stack` ends.

    Raises:
        MissingObject: one is not in the store.
        StoreUnavailable: the store fails.
    """
    changes = {
        each.name: stack.enter_context(clips.opened(value, store))
        for each in dataclasses.fields(request)
        if isinstance(value := getattr(request, each.name), StoredClip)
    }
    return dataclasses.replace(request, **changes) if changes else request
