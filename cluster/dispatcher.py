"""The dispatcher: claims segments, drives their chains, settles them. It runs as a Serve application without a route.

Its loops are no request, so Serve would end it within a second: a fleet is applied only after the dispatchers were drained
through their sessions (`jobs.leases.drain`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException

from cluster import fleet
from cluster.chains.registry import CHAINS
from cluster.steps import EngineFailed, JobStopped, LeaseLost, NoReplica, Steps
from core.clock import now
from core.database import UNAVAILABLE, Database, patiently
from core.egress import FetchFailed
from core.log import configure, logger
from core.settings import Settings
from jobs import pools
from jobs.leases import SESSION_EXPIRY_SECONDS, Ended, Leases, Outcome, SessionEnded
from jobs.models import Failure, Lease
from jobs.wakeup import CHANNEL, STOP_CHANNEL
from media.errors import MediaError

log = logger(__name__)

BEAT_SECONDS = 1.0
POLL_SECONDS = 0.5
CLAIM_MOST = 32
STUCK_SECONDS = 10.0
_RETRY_SECONDS = 0.5
_RECYCLE_SECONDS = 2.0
_UNAVAILABLE_SECONDS = 5.0
_ELECTION_LOCK = 0x6B7402


class Dispatcher:
    """One dispatcher; any number of them share the queue."""

    def __init__(self) -> None:
        self._settings = Settings()
        configure(self._settings.log_level, json=self._settings.log_json)
        url = self._settings.database_url
        assert url is not None
        self._database = Database(
            url, direct_url=self._settings.database_url_direct, size=self._settings.database_pool_size
        )
        self._leases = Leases(self._database)
        self._running: dict[UUID, tuple[Steps, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._turned_at = time.monotonic()
        self._draining = False
        self._main = asyncio.create_task(self._live())

    async def check_health(self) -> None:
        """Called by Serve: unhealthy when the loop has not turned for ten seconds."""
        if self._main.done():
            raise RuntimeError("the dispatcher's loop has ended") from self._main.exception()
        if time.monotonic() - self._turned_at > STUCK_SECONDS:
            raise RuntimeError("the dispatcher's loop does not turn")

    async def _live(self) -> None:
        await patiently(self._database.open)
        await asyncio.gather(*(self._again(loop) for loop in (self._serve_session, self._listen, self._lead)))

    async def _again(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except (*UNAVAILABLE, SessionEnded) as error:
                log.warning("a loop of the dispatcher begins again", loop=work.__name__, error=repr(error))
            self._turned_at = time.monotonic()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _serve_session(self) -> None:
        session = await self._leases.open_session(f"{socket.gethostname()}:{os.getpid()}")
        log.info("session opened", session=session)
        beat = asyncio.create_task(self._beat(session))
        try:
            while not beat.done():
                self._turned_at = time.monotonic()
                if not self._draining:
                    await self._claim_all(session)
                self._wake.clear()
                wake = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait({wake, beat}, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                wake.cancel()
            beat.result()
        finally:
            beat.cancel()
            await self._abandon()

    async def _beat(self, session: int) -> None:
        beaten_at = time.monotonic()
        while True:
            try:
                drain_by = await self._leases.beat(session)
                beaten_at = time.monotonic()
                self._draining = drain_by is not None
                if drain_by is not None and now() >= drain_by:
                    await self._hand_back_all()
                for job_id, _ in await self._leases.stop_requested(session):
                    self._stop(job_id)
            except UNAVAILABLE:
                if time.monotonic() - beaten_at > SESSION_EXPIRY_SECONDS:
                    raise
            await asyncio.sleep(BEAT_SECONDS)

    async def _listen(self) -> None:
        listener = await self._database.listen(CHANNEL, STOP_CHANNEL)
        try:
            async for channel, payload in listener:
                if channel == STOP_CHANNEL:
                    self._stop(UUID(payload))
                else:
                    self._wake.set()
        finally:
            await listener.close()

    async def _lead(self) -> None:
        """What one elected dispatcher does each second: write the pools' slots, fail what was never started."""
        connection = await self._database.direct()
        try:
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _ELECTION_LOCK):
                await asyncio.sleep(BEAT_SECONDS)
            while not connection.is_closed():
                await pools.set_slots(self._database, await fleet.slots())
                await self._leases.time_out_starts()
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            connection.terminate()

    async def _claim_all(self, session: int) -> None:
        for pool in await pools.names(self._database):
            for lease in await self._leases.claim(pool, CLAIM_MOST, session):
                steps = Steps(lease, self._leases)
                task = asyncio.create_task(self._run(lease, steps))
                self._running[lease.job_id] = (steps, task)

    def _stop(self, job_id: UUID) -> None:
        if job_id in self._running:
            self._running[job_id][0].stop()

    async def _hand_back_all(self) -> None:
        for steps, task in list(self._running.values()):
            await self._leases.hand_back(steps.lease, "handed_back", counts=False)
            task.cancel()

    async def _abandon(self) -> None:
        """The session is gone: whatever still runs here is no longer ours."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, lease: Lease, steps: Steps) -> None:
        bound = log.bind(job=str(lease.job_id), fence=lease.fence, request=lease.request_id)
        try:
            end = await self._drive(lease, steps)
            bound.info("lease ended", task=lease.task, ended=await patiently(end))
        except LeaseLost:
            bound.warning("lease lost")
        finally:
            self._running.pop(lease.job_id, None)
            self._wake.set()

    async def _drive(self, lease: Lease, steps: Steps) -> Callable[[], Awaitable[Ended]]:
        """Run the segment; returns the one call that ends its lease."""
        leases = self._leases
        try:
            result = await CHAINS[lease.task][lease.segment](steps)
        except JobStopped as stop:
            outcome = Outcome(stopped_at_step=stop.step, gpu_released_at=stop.gpu_released_at)
            return partial(leases.settle, lease, "cancelled", outcome)
        except (MediaError, FetchFailed) as fault:
            failure = Failure(fault.code, str(fault), retryable=False)
            return partial(leases.settle, lease, "failed", Outcome(), failure)
        except EngineFailed as fault:
            log.warning("the engine failed", job=str(lease.job_id), code=fault.code, error=str(fault))
            await asyncio.sleep(_RECYCLE_SECONDS if fault.recycle else 0)
            return self._attempt_failed(lease, fault.code, "The model failed on this input again and again")
        except RayActorError:
            return self._attempt_failed(lease, "replica_died", "The machines that ran this job died again and again")
        except (NoReplica, RayServeException, RayError) as error:
            log.warning("the cluster did not take a call", job=str(lease.job_id), error=repr(error))
            await asyncio.sleep(_UNAVAILABLE_SECONDS)
            return partial(leases.hand_back, lease, "cluster_unavailable", counts=False)
        except LeaseLost:
            raise
        except Exception:
            log.exception("a step failed", job=str(lease.job_id))
            return self._attempt_failed(lease, "step_failed", "A step of this job failed on our side again and again")
        if isinstance(result, Outcome):
            return partial(leases.settle, lease, "succeeded", result)
        return partial(leases.segment_end, lease, result)

    def _attempt_failed(self, lease: Lease, code: str, sentence: str) -> Callable[[], Awaitable[Ended]]:
        failure = Failure(code, f"{sentence}; nothing was charged.", retryable=True)
        return partial(self._leases.hand_back, lease, code, counts=True, failure=failure)


def app(args: dict[str, Any]) -> Application:
    """The application of a fleet file.

    Raises:
        ValueError: there are `args`; a dispatcher takes none.
    """
    if args:
        raise ValueError(f"the dispatcher takes no args, not {sorted(args)}")
    deployment: Any = serve.deployment(Dispatcher, name="Dispatcher")
    application: Application = deployment.bind()
    return application
