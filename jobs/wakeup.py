"""Telling other processes what changed, without a NOTIFY inside each transaction (that takes a global commit lock)."""

from __future__ import annotations

import asyncio
import contextlib
from uuid import UUID

from core.database import Connection, Database, patiently

CHANNEL = "job_ready"
"""There is work; the payload is empty."""
STOP_CHANNEL = "job_stop"
"""A running job was cancelled; the payload is its id."""
EVENT_CHANNEL = "job_event"
"""Jobs have new events; the payload is their ids, joined by commas, or empty: look at all."""

_PAUSE_SECONDS = 0.01
_IDS_MOST = 200
"""Ids in one payload, which PostgreSQL caps below 8000 bytes."""
_TOLD_MOST = 5000
"""So many jobs are named at once; with more, everybody looks at all."""


class Wakeup:
    """Sends NOTIFY at most once per 10 ms, on a connection of its own.

    Whoever listens also polls, dispatchers each half second and streams of events each second: a lost one costs no more.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked = asyncio.Event()
        self._work = False
        self._changed: set[UUID] = set()
        self._connection: Connection | None = None
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
        self._drop()

    def ask(self) -> None:
        """There is work: dispatchers are told."""
        self._work = True
        self._asked.set()

    def tell(self, job_id: UUID) -> None:
        """The job has a new event: streams are told."""
        self._changed.add(job_id)
        self._asked.set()

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            await patiently(self._send)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _send(self) -> None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.direct()
        self._asked.clear()
        work, changed = self._work, self._changed
        self._work, self._changed = False, set()
        told = [(CHANNEL, "")] if work else []
        told += [(EVENT_CHANNEL, payload) for payload in _payloads(changed)]
        try:
            await self._connection.execute(
                "SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS told (channel, payload)",
                [channel for channel, _ in told],
                [payload for _, payload in told],
            )
        except BaseException:
            self._work, self._changed = self._work or work, self._changed | changed
            self._drop()
            raise

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _payloads(changed: set[UUID]) -> list[str]:
    if len(changed) > _TOLD_MOST:
        return [""]
    ids = [str(job_id) for job_id in changed]
    return [",".join(ids[first : first + _IDS_MOST]) for first in range(0, len(ids), _IDS_MOST)]
