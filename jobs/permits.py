"""Permits: a replica's right to go on with a job.

Serve frees a replica's slot when a request is cancelled, and leaves a request running when its caller dies. So a replica
asks the database itself: its fence must be the job's current one, the lease live, and nobody may have asked for a stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from uuid import UUID

import asyncpg

from core.database import UNAVAILABLE, Database
from jobs.leases import SESSION_EXPIRY_SECONDS

REREAD_SECONDS = 2.0
BLIND_SECONDS = SESSION_EXPIRY_SECONDS + 30.0
"""With PostgreSQL away, or failing, a replica goes on until the lease would have ended, plus 30 s."""


class Permit:
    """Watches one fence while a call runs and calls `lost` once, from the event loop, when it no longer holds.

    It is read before the watch begins; a `wake` between the two is not forgotten.
    """

    def __init__(self, database: Database, job_id: UUID, fence: int, lost: Callable[[], None]) -> None:
        self._database = database
        self._job_id = job_id
        self._fence = fence
        self._lost = lost
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def held(self) -> bool:
        """Whether the permit holds at this moment."""
        return bool(await self._database.fetch_value("SELECT permitted($1, $2)", self._job_id, self._fence))

    def wake(self) -> None:
        """Re-read now: somebody was asked to stop."""
        self._wake.set()

    async def __aenter__(self) -> Permit:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        seen = time.monotonic()
        while True:
            # Not wait_for: before Python 3.12 it can swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REREAD_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            try:
                held = await self.held()
                seen = time.monotonic()
            except (*UNAVAILABLE, asyncpg.PostgresError):
                held = time.monotonic() - seen < BLIND_SECONDS
            if not held:
                self._lost()
                return
