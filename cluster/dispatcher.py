"""The dispatcher: claims segments, drives their chains, settles them. It runs as a Serve application without a route.

Its loops are no request, so Serve would end it within a second: a fleet is applied only after the dispatchers were drained
through their sessions (`jobs.leases.drain`).
"""

from __future__ import annotations

import asyncio
import contextlib
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
from structlog.contextvars import bound_contextvars

from cluster import fleet
from cluster.chains.registry import CHAINS
from cluster.conversation import EngineFailed, JobStopped, NoReplica
from cluster.steps import LeaseLost, Steps
from core.clock import now
from core.database import UNAVAILABLE, Database, patiently
from core.egress import FetchFailed
from core.garbage import spare_the_collector
from core.log import configure, logger
from core.settings import Settings
from jobs import pools
from jobs.artifacts import Artifacts
from jobs.leases import SESSION_EXPIRY_SECONDS, Ended, Leases, Outcome, SessionEnded
from jobs.models import Failure, Lease
from jobs.run_times import RunTimeLog
from jobs.wakeup import CHANNEL, STOP_CHANNEL, Wakeup
from media.errors import MediaError
from models.base import SPOILT
from storage import StoreUnavailable, open_store
from tasks.registry import TASKS

log = logger(__name__)

BEAT_SECONDS = 1.0
POLL_SECONDS = 0.5
CLAIM_MOST = 32
STUCK_SECONDS = 10.0
STRAY_LOOK_SECONDS = 5.0
UNANSWERED_MOST = 3
"""So many questions to Serve may time out one after the other; a client that lost it for good needs a new process."""
_RETRY_SECONDS = 0.5
_RECYCLE_SECONDS = 2.0
_UNAVAILABLE_SECONDS = 5.0
_STORE_AWAY_SECONDS = 30.0
"""A job starts twenty times at most: so it outlives ten minutes without a store. Its slot in the pool waits with it."""
_ELECTION_LOCK = 0x6B7402
_SPOILT_TWICE = "The model's output was unusable (not finite, blank or frozen), even with another seed"
_STEP_FAILED = "A step of this job failed on our side again and again"


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
        self._wakeup = Wakeup(self._database)
        self._leases = Leases(self._database, self._wakeup.tell)
        self._artifacts = Artifacts(
            self._database, open_store(self._settings, self._settings.base_url), self._settings.output_days
        )
        self._run_times = RunTimeLog(self._database)
        self._running: dict[tuple[UUID, int], tuple[Steps, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._turned_at = self._beaten_at = time.monotonic()
        self._unanswered = 0
        self._unsure = False
        self._draining = False
        spare_the_collector()
        self._main = asyncio.create_task(self._live())

    async def check_health(self) -> None:
        """Called by Serve: unhealthy when the loop has not turned for ten seconds, or Serve is out of reach."""
        if self._main.done():
            raise RuntimeError("the dispatcher's loop has ended") from self._main.exception()
        if time.monotonic() - self._turned_at > STUCK_SECONDS:
            raise RuntimeError("the dispatcher's loop does not turn")
        if self._unanswered >= UNANSWERED_MOST:
            raise RuntimeError("Serve does not answer this dispatcher")

    async def _live(self) -> None:
        await patiently(self._open)
        self._wakeup.start()
        try:
            await asyncio.gather(*(self._again(loop) for loop in (self._serve_session, self._listen, self._lead)))
        finally:
            await self._wakeup.stop()

    async def _open(self) -> None:
        self._turned_at = time.monotonic()
        await self._database.open()

    async def _again(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except (*UNAVAILABLE, SessionEnded) as error:
                log.warning("a loop of the dispatcher begins again", loop=work.__name__, error=repr(error))
            except Exception:
                log.exception("a loop of the dispatcher broke and begins again", loop=work.__name__)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _serve_session(self) -> None:
        self._turned_at = time.monotonic()
        session = await self._leases.open_session(f"{socket.gethostname()}:{os.getpid()}")
        log.info("session opened", session=session)
        self._beaten_at = time.monotonic()
        self._unsure = False
        loops = [asyncio.create_task(self._beat(session)), asyncio.create_task(self._claim(session))]
        try:
            while not any(loop.done() for loop in loops):
                self._turned_at = time.monotonic()
                await asyncio.wait(loops, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                # Looked at from outside the beat: on a network that swallows packets a beat hangs and does not fail.
                if time.monotonic() - self._beaten_at > SESSION_EXPIRY_SECONDS:
                    raise SessionEnded(f"session {session} could not beat for {SESSION_EXPIRY_SECONDS} s")
            for loop in loops:
                if loop.done():
                    loop.result()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops, timeout=_RETRY_SECONDS)
            await self._abandon()

    async def _beat(self, session: int) -> None:
        while True:
            try:
                drain_by = await self._leases.beat(session)
                self._beaten_at = time.monotonic()
                self._draining = drain_by is not None
                if drain_by is not None and now() >= drain_by:
                    await self._hand_back_all()
                for job_id, _ in await self._leases.stop_requested(session):
                    self._stop(job_id)
                await self._run_times.flush()
            except UNAVAILABLE as error:
                log.warning("a beat failed", session=session, error=repr(error))
            await asyncio.sleep(BEAT_SECONDS)

    async def _claim(self, session: int) -> None:
        looked_at = time.monotonic()
        while True:
            self._wake.clear()
            try:
                # A claim whose connection was lost may be committed later than the next look.
                if self._unsure or time.monotonic() - looked_at > STRAY_LOOK_SECONDS:
                    self._unsure = False
                    looked_at = time.monotonic()
                    await self._leases.hand_back_strays(session, self._running)
                if not self._draining:
                    await self._claim_all(session)
            except UNAVAILABLE as error:
                # The claim may have been made all the same, its answer lost: then nobody runs those jobs.
                self._unsure = True
                log.warning("a claim failed", session=session, error=repr(error))
            # Not wait_for: before Python 3.12 it can swallow a cancellation, and this loop would go on without a session.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()

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
        """What one elected dispatcher does each second: write the pools' slots, and sweep."""
        connection = await self._database.direct()
        try:
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _ELECTION_LOCK):
                await asyncio.sleep(BEAT_SECONDS)
            while not connection.is_closed():
                await self._leases.sweep(most_running=self._settings.running_cancels_a_day)
                await pools.set_slots(self._database, await self._slots())
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            connection.terminate()

    async def _slots(self) -> dict[str, int]:
        try:
            found = await fleet.slots()
        except TimeoutError:
            self._unanswered += 1
            raise
        self._unanswered = 0
        return {**found, fleet.CPU: self._settings.cpu_slots}

    async def _claim_all(self, session: int) -> None:
        for pool in await pools.names(self._database):
            for lease in await self._leases.claim(pool, CLAIM_MOST, session):
                steps = Steps(lease, self._leases, self._artifacts)
                task = asyncio.create_task(self._run(lease, steps))
                self._running[lease.job_id, lease.fence] = (steps, task)

    def _stop(self, job_id: UUID) -> None:
        for (running, _), (steps, _) in self._running.items():
            if running == job_id:
                steps.stop()

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
        """Every line logged meanwhile carries the lease and the id of the request that submitted the job."""
        with bound_contextvars(request_id=lease.request_id, job=str(lease.job_id), fence=lease.fence):
            try:
                end = await self._drive(lease, steps)
                try:
                    ended = await patiently(end)
                except Exception:
                    log.exception("the end of a lease could not be written")
                    ended = await patiently(self._attempt_failed(lease, "step_failed", _STEP_FAILED))
                log.info("lease ended", task=lease.task, ended=ended)
            except LeaseLost:
                log.warning("lease lost")
            except Exception:
                log.exception("a lease could not be ended")
                self._unsure = True
            finally:
                del self._running[lease.job_id, lease.fence]
                self._wake.set()

    async def _drive(self, lease: Lease, steps: Steps) -> Callable[[], Awaitable[Ended]]:
        """Run the segment; returns the one call that ends its lease."""
        leases, began = self._leases, time.monotonic()
        try:
            result = await CHAINS[lease.task][lease.segment](steps)
            self._run_times.note(TASKS[lease.task], lease.effective_input, lease.segment, time.monotonic() - began)
        except JobStopped as stop:
            # Nobody asked for it: the replica lost sight of the database, or of this session. Not again at once.
            await steps.await_stop(_UNAVAILABLE_SECONDS)
            outcome = Outcome(stopped_at_step=stop.step, gpu_released_at=stop.gpu_released_at)
            return partial(leases.settle, lease, "cancelled", outcome)
        except (MediaError, FetchFailed) as fault:
            failure = Failure(fault.code, str(fault), retryable=False, path=fault.path)
            return partial(leases.settle, lease, "failed", Outcome(), failure)
        except EngineFailed as fault:
            log.warning("the engine failed", job=str(lease.job_id), code=fault.code, error=str(fault))
            if fault.code in SPOILT and await steps.spoilt():
                return self._attempt_failed(lease, fault.code, _SPOILT_TWICE, last=True)
            await asyncio.sleep(_RECYCLE_SECONDS if fault.recycle else 0)
            return self._attempt_failed(lease, fault.code, "The model failed on this input again and again")
        except RayActorError:
            return self._attempt_failed(lease, "replica_died", "The machines that ran this job died again and again")
        except (NoReplica, RayServeException, RayError) as error:
            log.warning("the cluster did not take a call", job=str(lease.job_id), error=repr(error))
            await asyncio.sleep(_UNAVAILABLE_SECONDS)
            begun = not isinstance(error, NoReplica)
            return partial(leases.hand_back, lease, "cluster_unavailable", counts=False, begun=begun)
        except StoreUnavailable as error:
            log.warning("the store of objects does not serve us", job=str(lease.job_id), error=str(error))
            await steps.await_stop(_STORE_AWAY_SECONDS)
            return partial(leases.hand_back, lease, "storage_unavailable", counts=False)
        except LeaseLost:
            raise
        except Exception:
            log.exception("a step failed", job=str(lease.job_id))
            return self._attempt_failed(lease, "step_failed", _STEP_FAILED)
        if isinstance(result, Outcome):
            return partial(leases.settle, lease, "succeeded", result)
        return partial(leases.segment_end, lease, result)

    def _attempt_failed(
        self, lease: Lease, code: str, sentence: str, *, last: bool = False
    ) -> Callable[[], Awaitable[Ended]]:
        failure = Failure(code, f"{sentence}; nothing was charged.", retryable=True)
        return partial(self._leases.hand_back, lease, code, counts=True, failure=failure, last=last)


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
