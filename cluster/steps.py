"""The steps that chains are made of, for one leased segment.

Small steps are Ray tasks, the model step is one streaming call to a replica. Nothing here is retried by Ray: a failed step
ends the lease, and the job's own rules decide what follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from cluster import work
from cluster.conversation import Conversation, JobStopped, ModelResult
from cluster.faults import at
from cluster.work import Decoded, Place
from core.database import UNAVAILABLE, patiently
from core.egress import FetchFailed
from deployments.clips import Sink
from deployments.messages import Call
from jobs.artifacts import Artifacts, job_folder
from jobs.inputs import input_key
from jobs.leases import Leases
from jobs.models import Lease
from media import preview
from media.errors import MediaError
from media.kinds import MAX_BYTES, Kind
from models.base import SPOILT
from storage import StoreUnavailable

_PROGRESS_SECONDS = 0.5
_PICTURES_AT_ONCE = 4
"""So that servers which answer slowly hold up a pool's slot for minutes at most, and decoding stays within 2 GB."""
_MODEL_SHARE = 0.95
"""Share of a job's progress that an only model step makes up; encoding and publishing are the rest."""


class LeaseLost(Exception):
    """The fence is late: the job belongs to somebody else, or has ended."""


class StepFailed(Exception):
    """A small step broke on our side; the attempt counts."""


@dataclass(frozen=True)
class Fetched:
    """The picture at `path` of the input, in Ray's object store: `pixels` refers to uint8 of shape (height, width, 3)."""

    path: str
    decoded: Decoded
    pixels: Any

    @property
    def size(self) -> tuple[int, int]:
        """Its (width, height)."""
        return self.decoded.width, self.decoded.height

    def adjustments(self) -> list[dict[str, Any]]:
        """What was lost when it was decoded."""
        return [
            {"field": self.path, "from": change.from_, "to": change.to, "reason": change.reason, "at": "run"}
            for change in self.decoded.changes
        ]


class Steps:
    """One lease's way through its chain. `stop` ends the step under way, as gently as that step can."""

    def __init__(self, lease: Lease, leases: Leases, artifacts: Artifacts) -> None:
        self.lease = lease
        self.input = lease.effective_input
        self._leases = leases
        self._artifacts = artifacts
        self._stop = asyncio.Event()
        self._progress_at = 0.0

    @property
    def folder(self) -> str:
        """Where this attempt's files are stored; the keys of no other attempt begin so."""
        return f"{job_folder(self.lease.job_id)}{self.lease.fence}"

    def stop(self) -> None:
        """Stop the job at the next point where it can."""
        self._stop.set()

    async def await_stop(self, patience_s: float) -> None:
        """Return when `stop` is called, after `patience_s` seconds at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._stop.wait()

    async def spoilt(self) -> int:
        """How many earlier attempts of this job made what is of no use to anybody."""
        return await patiently(lambda: self._leases.count_ended(self.lease, SPOILT)) if self.lease.fence > 1 else 0

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
        ours = True
        try:
            yield spent
        except (asyncio.CancelledError, LeaseLost):
            # The lease is gone: nothing is to be noted, and a database that is away must not hold up the way out.
            ours = False
            raise
        finally:
            if ours:
                await patiently(lambda: self._leases.stage_end(self.lease, name, spent["gpu_seconds"]))

    async def fetch(self, references: Mapping[str, str | Mapping[str, Any]]) -> list[Fetched]:
        """The pictures of the input, each given by its path in it: a URL or a stored input. Nothing costs nothing.

        URLs of this service are read from its store, and only what belongs to the job's account. The pixels never come
        here: give the references to a model or a step.

        Raises:
            FetchFailed: a URL could not be fetched; the job fails at no cost.
            MediaError: what was fetched is no picture we take.
            StoreUnavailable: what is stored could not be read.
        """
        if not references:
            return []
        async with self.stage("fetch"):
            return await self.pictures(references)

    async def pictures(
        self, references: Mapping[str, str | Mapping[str, Any]], canvas: tuple[int, int] | None = None
    ) -> list[Fetched]:
        """The pictures of the input, as `fetch` gives them, a few at once; within a stage of the caller's.

        With a `canvas` (width, height) the pixels fill it, what stands out is cut evenly.

        Raises:
            FetchFailed, MediaError, StoreUnavailable: as `fetch`.
        """
        room = asyncio.Semaphore(_PICTURES_AT_ONCE)

        async def one(path: str, reference: str | Mapping[str, Any]) -> Fetched:
            async with room:
                return await self._picture(path, reference, canvas)

        fetching = [asyncio.ensure_future(one(path, reference)) for path, reference in references.items()]
        try:
            return list(await asyncio.gather(*fetching))
        finally:
            for each in fetching:
                each.cancel()
            await asyncio.gather(*fetching, return_exceptions=True)

    async def _picture(self, path: str, reference: str | Mapping[str, Any], canvas: tuple[int, int] | None) -> Fetched:
        with at(path):
            place = await self.place(reference, "image")
            return Fetched(path, *await self._fetched(work.picture, place, canvas))

    async def sound(self, path: str, reference: str | Mapping[str, Any], samples: int) -> tuple[float, Any]:
        """The sound at `path` of the input: its seconds, and a reference to its first `samples` samples.

        They are float32 of shape (2, samples) at 48 kHz, with silence behind a sound that ends before.

        Raises:
            FetchFailed, MediaError, StoreUnavailable: as `fetch`.
        """
        with at(path):
            return await self._fetched(work.heard, await self.place(reference, "audio"), samples)

    async def place(self, reference: str | Mapping[str, Any], kind: Kind) -> Place:
        """Where the file lies that the input refers to, by its URL or as a stored input.

        Raises:
            FetchFailed: it is one of our URLs, and not the account's, or gone, or too large.
            StoreUnavailable: the store fails.
        """
        if not isinstance(reference, str):
            return Place(key=input_key(reference["sha256"]))
        url, most = reference, MAX_BYTES[kind]
        found = await patiently(lambda: self._artifacts.locate(self.lease.account_id, url, max_bytes=most))
        return Place(url=url) if found is None else Place(key=found.key)

    async def _fetched(self, task: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        """What the task says of the file, and a reference to its content."""
        seen, content = work.remote(task, *arguments, returns=2)
        try:
            return await self._finished(seen), content
        except (MediaError, FetchFailed, StoreUnavailable, StepFailed):
            # Both objects hold the error, and Ray prints every error that nobody looks at.
            await asyncio.gather(_awaited(content), return_exceptions=True)
            raise

    async def model(
        self, pool: str, request: Any, *, sink: Sink | None = None, share: tuple[float, float] = (0.0, _MODEL_SHARE)
    ) -> ModelResult:
        """Run an engine's request on a replica of `pool`; a clip goes into `sink` there, and what it became comes back.

        `share` is the part of the job's progress that this step makes up.

        Raises:
            JobStopped: the permit was lost, or a stop came before a replica took the call.
            EngineFailed: the engine reported a fault.
            NoReplica: none began the call within two minutes, or it died before it did.
            RayActorError: the replica died under the call.
            StoreUnavailable: the store did not take the clip, or give the one it is made of.
        """
        begin, end = share
        async with self.stage(pool) as spent:
            conversation = Conversation(pool, self._stop)
            try:
                return await conversation.hold(
                    Call(self.lease.job_id, self.lease.fence, request, sink, self.lease.request_id),
                    lambda done: self._progress(begin + done * (end - begin)),
                    self._preview,
                )
            finally:
                spent["gpu_seconds"] = conversation.gpu_seconds

    async def cpu(self, name: str, task: Callable[..., Any], *arguments: Any) -> Any:
        """Run `task` (a function of cluster.work) as a Ray task; object references among the arguments are resolved.

        Raises:
            JobStopped: a stop was asked for while it ran.
            StepFailed: it raised something that is not the caller's fault.
            StoreUnavailable: the store did not serve it.
        """
        async with self.stage(name):
            return await self._task(task, *arguments)

    async def course(self, function: Callable[..., Any], names: Sequence[str], *arguments: Any) -> list[Any]:
        """Run a generator of cluster.work as one Ray task through the stages `names`; each value that it yields ends one.

        Raises:
            JobStopped, StepFailed, StoreUnavailable, FetchFailed, MediaError: as for single tasks.
        """
        stream = work.remote(function, *arguments, returns="streaming")
        values = []
        try:
            for name in names:
                async with self.stage(name):
                    values.append(await self._raced(_next(stream), stream))
        except BaseException:
            ray.cancel(stream)
            raise
        return values

    async def publish(self, files: dict[str, tuple[Any, str]]) -> list[dict[str, Any]]:
        """Store named contents (`{"image.webp": (bytes or a reference, mime type)}`) under this attempt's own keys.

        Raises:
            StoreUnavailable: the store did not take them.
        """
        async with self.stage("publish"):
            named = [(name, mime_type) for name, (_, mime_type) in files.items()]
            artifacts: list[dict[str, Any]] = await self._task(
                work.publish, self.folder, named, *(content for content, _ in files.values())
            )
            return artifacts

    async def _task(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._finished(work.remote(function, *arguments))

    async def _finished(self, reference: Any) -> Any:
        """The object behind a task's reference, once the task has ended."""
        return await self._raced(_awaited(reference), reference)

    async def _raced(self, value: Awaitable[Any], task: Any) -> Any:
        """`value`; `task` is cancelled when a stop, or the end of this call, comes first."""
        stop = asyncio.ensure_future(self._stop.wait())
        result = asyncio.ensure_future(value)
        try:
            await asyncio.wait({stop, result}, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            raise JobStopped
        except RayTaskError as error:
            # Not `as_instanceof_cause`: its text is the worker's traceback, and this text is for the caller.
            if isinstance(error.cause, (MediaError, FetchFailed, StoreUnavailable)):
                raise error.cause from None
            raise StepFailed(str(error)) from error
        except (WorkerCrashedError, OutOfMemoryError) as error:
            raise StepFailed(str(error)) from error
        finally:
            if not result.done():
                ray.cancel(task)
                result.cancel()
            stop.cancel()

    async def _progress(self, fraction: float) -> None:
        if time.monotonic() - self._progress_at < _PROGRESS_SECONDS:
            return
        self._progress_at = time.monotonic()
        with contextlib.suppress(*UNAVAILABLE):
            if not await self._leases.progress(self.lease, fraction):
                raise LeaseLost

    async def _preview(self, content: bytes) -> None:
        with contextlib.suppress(*UNAVAILABLE):
            if not await self._leases.preview(self.lease, preview.MIME_TYPE, content):
                raise LeaseLost


async def _awaited(reference: Any) -> Any:
    return await reference


async def _next(stream: Any) -> Any:
    return await (await anext(stream))
