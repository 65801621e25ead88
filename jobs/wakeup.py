"""Telling dispatchers that there is work, without a NOTIFY inside each transaction (that takes a global commit lock)."""

from __future__ import annotations

import asyncio
import contextlib

from core.database import UNAVAILABLE, Database

CHANNEL = "job_ready"
STOP_CHANNEL = "job_stop"
EVENT_CHANNEL = "job_event"
_PAUSE_SECONDS = 0.01


class Wakeup:
    """Sends at most one NOTIFY per 10 ms; a lost one costs half a second, because dispatchers also poll."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin sending, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop sending."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def ask(self) -> None:
        """There is work: a NOTIFY follows."""
        self._asked.set()

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            with contextlib.suppress(*UNAVAILABLE):
                await self._database.execute("SELECT pg_notify($1, '')", CHANNEL)
            await asyncio.sleep(_PAUSE_SECONDS)
