"""What happened to jobs, as it happens: one LISTEN and one fetch per process serve everybody who watches."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from types import TracebackType
from typing import Any
from uuid import UUID

from accounts.keys import REVOKED_CHANNEL, Keys
from core.database import UNAVAILABLE, Database
from core.log import logger
from jobs.models import Job
from jobs.states import FINAL
from jobs.wakeup import EVENT_CHANNEL

POLL_SECONDS = 1.0
"""An event whose NOTIFY was lost is found that much later."""
RECHECK_SECONDS = 15.0
"""A key whose revocation was not heard of loses its watches that much later."""
PAGE = 200
"""Events of one job read at a time. A watch holds no more; the rest waits in the database."""

_PATIENCE_SECONDS = 0.5
_NEW = """
SELECT event.job_id, place.after, event.seq, event.at, event.type, event.data
FROM unnest($1::uuid[], $2::int[]) AS place (job_id, after) JOIN LATERAL (
  SELECT * FROM event WHERE event.job_id = place.job_id AND event.seq > place.after ORDER BY event.seq LIMIT $3
) AS event ON true
ORDER BY place.job_id, place.after, event.seq
"""

log = logger(__name__)


@dataclass(frozen=True)
class Event:
    """One thing that happened to a job. `seq` counts from 1, per job, without gaps."""

    seq: int
    at: datetime
    type: str
    data: dict[str, Any]

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self.type == "state" and self.data["status"] in FINAL

    @classmethod
    def end_of(cls, job: Job) -> Event:
        """The last event of a job that has ended, made from the job: the events themselves are not kept for ever."""
        assert job.finished_at is not None
        failure = {} if job.failure is None else {"failure": job.failure}
        return cls(job.sequence, job.finished_at, "state", {"status": job.state, **failure})


Place = tuple[UUID, int]
"""A job, and the last event of it that a reader has."""


async def read(database: Database, places: Iterable[Place]) -> dict[Place, list[Event]]:
    """What follows each place, in order, at most `PAGE` events each; a place that nothing follows is left out."""
    asked = list(places)
    rows = await database.fetch(_NEW, [job_id for job_id, _ in asked], [after for _, after in asked], PAGE)
    return {
        place: [Event(row["seq"], row["at"], row["type"], row["data"]) for row in found]
        for place, found in groupby(rows, key=lambda row: (row["job_id"], row["after"]))
    }


class Watch:
    """One reader of one job's events, from `after` on. It is registered with its hub until its `with` block ends."""

    def __init__(self, hub: Hub, job_id: UUID, after: int, key_prefix: str | None) -> None:
        self.job_id = job_id
        self.after = after
        self.key_prefix = key_prefix
        self.ended = False
        self._hub = hub
        self._given: list[Event] = []
        self._more = False
        self._changed = asyncio.Event()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hub.leave(self)

    async def take(self) -> list[Event]:
        """What is new, in order and each once, as soon as there is something; nothing when the watch was ended."""
        await self._changed.wait()
        taken, self._given = self._given, []
        if not self.ended:
            self._changed.clear()
        if self._more:
            self._more = False
            self._hub.look(self.job_id)
        return taken

    def end(self) -> None:
        """Nothing more is given; who waits in `take` returns."""
        self.ended = True
        self._changed.set()

    def give(self, events: list[Event]) -> None:
        """Called by the hub with what follows `after`."""
        self._given = events
        self.after = events[-1].seq
        self._more = len(events) == PAGE
        self._changed.set()

    def place(self) -> Place | None:
        """Where to read on; None while what was given has not been taken, and then the hub is asked once it is."""
        if self._given:
            self._more = True
            return None
        return self.job_id, self.after


class Hub:
    """Everybody in this process who watches a job."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database = database
        self._keys = keys
        self._watches: dict[UUID, set[Watch]] = {}
        self._by_key: Counter[str] = Counter()
        self._unread: set[UUID] = set()
        self._wake = asyncio.Event()
        self._doubt = asyncio.Event()
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin listening and reading, on the running event loop."""
        self._tasks = [asyncio.create_task(self._again(loop)) for loop in (self._listen, self._read, self._recheck)]

    async def stop(self) -> None:
        """End every watch and stop."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """End every watch, and each that begins from now on: the process is about to stop."""
        self._closed = True
        for watch in self._all():
            watch.end()

    def watch(self, job_id: UUID, after: int, *, key_prefix: str | None = None) -> Watch:
        """Begin to watch what follows event `after` of a job; with a prefix, until that key is revoked."""
        watch = Watch(self, job_id, after, key_prefix)
        if self._closed:
            watch.end()
        self._watches.setdefault(job_id, set()).add(watch)
        if key_prefix is not None:
            self._by_key[key_prefix] += 1
            # The key may have been revoked between its own check and this registration.
            self._doubt.set()
        self.look(job_id)
        return watch

    def leave(self, watch: Watch) -> None:
        """The watch is over; again is no error."""
        watch.end()
        watches = self._watches.get(watch.job_id, set())
        if watch not in watches:
            return
        watches.remove(watch)
        if not watches:
            del self._watches[watch.job_id]
        if watch.key_prefix is not None:
            self._by_key[watch.key_prefix] -= 1
            if not self._by_key[watch.key_prefix]:
                del self._by_key[watch.key_prefix]

    def count(self, key_prefix: str | None = None) -> int:
        """How many watches there are, or how many of them belong to this key."""
        return self._by_key[key_prefix] if key_prefix is not None else sum(map(len, self._watches.values()))

    def look(self, job_id: UUID) -> None:
        """Read what is new of this job."""
        self._unread.add(job_id)
        self._wake.set()

    def _all(self) -> list[Watch]:
        return [watch for watches in self._watches.values() for watch in watches]

    def _look_everywhere(self) -> None:
        self._unread.update(self._watches)
        self._wake.set()

    def _end_of_keys(self, prefixes: set[str]) -> None:
        for watch in self._all():
            if watch.key_prefix in prefixes:
                watch.end()

    async def _again(self, loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
            except UNAVAILABLE as error:
                log.warning("a loop of the events' hub begins again", loop=loop.__name__, error=repr(error))
            except Exception:
                log.exception("a loop of the events' hub broke and begins again", loop=loop.__name__)
            await asyncio.sleep(_PATIENCE_SECONDS)

    async def _listen(self) -> None:
        listener = await self._database.listen(EVENT_CHANNEL, REVOKED_CHANNEL)
        try:
            self._look_everywhere()
            self._doubt.set()
            async for channel, payload in listener:
                if channel == REVOKED_CHANNEL:
                    self._end_of_keys({payload})
                else:
                    self._heard(payload)
        finally:
            await listener.close()

    def _heard(self, payload: str) -> None:
        if not payload:
            self._look_everywhere()
        elif self._watches:
            for job_id in self._watches.keys() & {UUID(each) for each in payload.split(",")}:
                self.look(job_id)

    async def _read(self) -> None:
        poll_at = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_at - time.monotonic()):
                    await self._wake.wait()
            if time.monotonic() >= poll_at:
                self._unread.update(self._watches)
                poll_at = time.monotonic() + POLL_SECONDS
            self._wake.clear()
            unread, self._unread = self._unread, set()
            await self._hand_out(unread)

    async def _hand_out(self, unread: set[UUID]) -> None:
        readers: dict[Place, list[Watch]] = {}
        for job_id in unread:
            for watch in self._watches.get(job_id, ()):
                place = watch.place()
                if place is not None:
                    readers.setdefault(place, []).append(watch)
        if readers:
            for place, events in (await read(self._database, readers)).items():
                for watch in readers[place]:
                    watch.give(events)

    async def _recheck(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_SECONDS):
                    await self._doubt.wait()
            self._doubt.clear()
            if self._by_key:
                self._end_of_keys(await self._keys.revoked(self._by_key))
