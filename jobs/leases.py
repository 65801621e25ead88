"""The dispatchers' side of jobs: sessions, claims, progress and every way a lease ends."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal
from uuid import UUID

import asyncpg

from core.batches import Batches
from core.clock import rfc3339
from core.database import UNAVAILABLE, Database
from core.log import logger
from jobs import pools
from jobs.models import Failure, Lease
from jobs.store import CANCEL_PAUSE

log = logger(__name__)

SESSION_EXPIRY_SECONDS = 6.0
"""A dispatcher that cannot beat for this long stops its jobs: others may have them by then (SQL `session_expiry`)."""

_RECLAIM_MOST = 200
"""Jobs taken over per beat, so that whoever takes over does not miss its own."""

_SETTLED_MOST = 32
"""Jobs settled in one transaction, so that none holds its accounts' rows for long."""

Ended = Literal["queued", "succeeded", "failed", "cancelled", "stale"]


class SessionEnded(Exception):
    """This dispatcher was taken for dead and its jobs were given to others; it must open a new session."""


@dataclass(frozen=True)
class Outcome:
    """What a worker reports of a finished or stopped job."""

    outputs: tuple[dict[str, Any], ...] = ()
    upstream: dict[str, Any] | None = None
    engine: str | None = None
    weights_digest: str | None = None
    stand_in: bool | None = None
    replica: str | None = None
    stopped_at_step: int | None = None
    gpu_released_at: datetime | None = None
    adjustments: tuple[dict[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The `p_result` of SQL `settle`."""
        parts = {
            "outputs": list(self.outputs),
            "upstream": self.upstream,
            "engine": self.engine,
            "weightsDigest": self.weights_digest,
            "standIn": self.stand_in,
            "replica": self.replica,
            "stoppedAtStep": self.stopped_at_step,
            "gpuReleasedAt": rfc3339(self.gpu_released_at) if self.gpu_released_at else None,
            "adjustments": list(self.adjustments),
        }
        return {key: value for key, value in parts.items() if value is not None}


@dataclass(frozen=True, eq=False)
class _Settlement:
    lease: Lease
    state: Literal["succeeded", "failed", "cancelled"]
    outcome: Outcome
    failure: Failure | None


def _nobody(job_id: UUID) -> None:
    """Nobody is told."""


class Leases:
    """Jobs as one dispatcher holds them. Every call is one round trip, or shares one; a late fence changes nothing.

    `tell` is called with the id of each job that has a new event.
    """

    def __init__(self, database: Database, tell: Callable[[UUID], None] = _nobody) -> None:
        self._database = database
        self._tell = tell
        self._settlements: Batches[_Settlement, Ended] = Batches(self._settle, most=_SETTLED_MOST, patience=None)

    async def open_session(self, name: str) -> int:
        """A new session; it lives as long as it beats."""
        session: int = await self._database.fetch_value("INSERT INTO session (name) VALUES ($1) RETURNING id", name)
        return session

    async def beat(self, session: int) -> datetime | None:
        """Keep the session, and take over what dead ones held. Returns when it must have handed everything back, if ever.

        Raises:
            SessionEnded: the session was reclaimed.
        """
        row = await self._database.fetch_row(
            "UPDATE session SET beat_at = clock_timestamp() WHERE id = $1 AND ended_at IS NULL"
            " RETURNING drain_of(drain_by) AS drain_by",
            session,
        )
        if row is None:
            raise SessionEnded(f"session {session} has ended")
        await self._database.execute("SELECT session_reclaim()")
        await self._hand_back_ended("session_expired")
        drain_by: datetime | None = row["drain_by"]
        return drain_by

    async def close_session(self, session: int) -> int:
        """End the session and hand back what it still holds; returns how many jobs."""
        await self._database.execute(
            "WITH mine AS (SELECT id FROM session WHERE id = $1 AND ended_at IS NULL FOR UPDATE)"
            " UPDATE session SET ended_at = clock_timestamp() FROM mine WHERE session.id = mine.id",
            session,
        )
        return await self._hand_back_ended("handed_back", session)

    async def _hand_back_ended(self, reason: str, session: int | None = None) -> int:
        most = _RECLAIM_MOST if session is None else None
        return await self._one_by_one("SELECT session_hand_back($1, $2)", reason, session, most=most)

    async def _one_by_one(self, query: str, *values: Any, most: int | None = None) -> int:
        """Run a query that changes one job and returns its id until it returns none; returns how many it changed."""
        count = 0
        while count != most:
            job_id = await self._database.fetch_value(query, *values)
            if job_id is None:
                break
            self._tell(job_id)
            count += 1
        return count

    async def claim(self, pool: str, most: int, session: int) -> list[Lease]:
        """Up to `most` jobs of the pool, never more than its free slots plus one.

        Raises:
            SessionEnded: the session was reclaimed.
        """
        try:
            rows = await self._database.fetch("SELECT * FROM claim($1, $2, $3)", pool, most, session)
        except asyncpg.PostgresError as error:
            if error.sqlstate == "KT440":
                raise SessionEnded(str(error)) from None
            raise
        for row in rows:
            self._tell(row["job_id"])
        return [Lease(**row) for row in rows]

    async def progress(self, lease: Lease, fraction: float) -> bool:
        """Note progress (0…1), at most twice a second per job; False when the fence is late."""
        return bool(await self._write("SELECT job_progress($1, $2, $3)", lease, fraction))

    async def preview(self, lease: Lease, mime_type: str, content: bytes) -> bool:
        """Show a small picture of what there is so far (a few kilobytes, now and then); False when the fence is late."""
        shown = {"mimeType": mime_type, "dataBase64": base64.b64encode(content).decode()}
        return bool(
            await self._database.fetch_value("SELECT job_preview($1, $2, $3)", lease.job_id, lease.fence, shown)
        )

    async def stage_begin(self, lease: Lease, name: str) -> bool:
        """Note that a step begins; False when the fence is late."""
        return bool(await self._write("SELECT stage_begin($1, $2, $3)", lease, name))

    async def stage_end(self, lease: Lease, name: str, gpu_seconds: float = 0.0) -> None:
        """Note that a step ended, and how long it held a GPU."""
        await self._database.execute("SELECT stage_end($1, $2, $3, $4)", lease.job_id, lease.fence, name, gpu_seconds)

    async def hand_back(
        self,
        lease: Lease,
        reason: str,
        *,
        counts: bool,
        failure: Failure | None = None,
        begun: bool = True,
        last: bool = False,
    ) -> Ended:
        """Give the job back to the queue; `failure` is what it fails with when this was its last attempt.

        It was when the attempts are used up, or when it is said to be the `last`. Without `begun` no engine had taken it:
        that was no start, and no attempt is noted.
        """
        fault = failure.as_json() if failure else None
        query = "SELECT hand_back($1, $2, $3, $4, $5, $6, $7)"
        ended: Ended = await self._write(query, lease, reason, counts, fault, begun, last)
        return ended

    async def hand_back_strays(self, session: int, known: Iterable[tuple[UUID, int]]) -> int:
        """Hand back the session's running jobs that are not `known` by job and fence; returns how many.

        A claim whose answer was lost leaves such: leased to a session that lives, and run by nobody.
        """
        kept = list(known)
        rows = await self._database.fetch(
            "SELECT id, fence FROM job WHERE session_id = $1 AND state = 'running'"
            " AND (id, fence) NOT IN (SELECT * FROM unnest($2::uuid[], $3::int[]))",
            session,
            [job_id for job_id, _ in kept],
            [fence for _, fence in kept],
        )
        for row in rows:
            await self._database.execute("SELECT hand_back($1, $2, 'claim_lost', false)", row["id"], row["fence"])
            self._tell(row["id"])
        return len(rows)

    async def segment_end(self, lease: Lease, checkpoint: dict[str, Any]) -> Ended:
        """Pass the job on to its next pool."""
        ended: Ended = await self._write("SELECT segment_end($1, $2, $3)", lease, checkpoint)
        return ended

    async def settle(
        self,
        lease: Lease,
        state: Literal["succeeded", "failed", "cancelled"],
        outcome: Outcome,
        failure: Failure | None = None,
    ) -> Ended:
        """End the job and its hold in one transaction; returns the true state, `stale` when the fence is late.

        Settlements that come while others are under way share the next transaction.

        Raises:
            ValueError: a failed job without its failure, or a failure of a job that did not fail.
        """
        if (state == "failed") != (failure is not None):
            raise ValueError("a job that failed, and no other, has a failure")
        try:
            ended = await self._settlements.get(_Settlement(lease, state, outcome, failure))
        except UNAVAILABLE:
            raise
        except asyncpg.PostgresError:
            # Alone, so that the fault, or a row that somebody keeps locked, is nobody else's.
            fault = failure.as_json() if failure else None
            ended = await self._write("SELECT settle($1, $2, $3, $4, $5)", lease, state, outcome.as_json(), fault)
        assert ended is not None
        self._tell(lease.job_id)
        return ended

    async def count_ended(self, lease: Lease, outcomes: Iterable[str]) -> int:
        """How many earlier attempts of the job ended in one of `outcomes`."""
        count: int = await self._database.fetch_value(
            "SELECT count(*) FROM attempt WHERE job_id = $1 AND fence < $2 AND outcome = ANY ($3)",
            lease.job_id,
            lease.fence,
            list(outcomes),
        )
        return count

    async def _settle(self, given: Sequence[_Settlement]) -> dict[_Settlement, Ended]:
        ends = await self._database.fetch_value(
            "SELECT settle_all($1, $2, $3, $4, $5)",
            [each.lease.job_id for each in given],
            [each.lease.fence for each in given],
            [each.state for each in given],
            [each.outcome.as_json() for each in given],
            [each.failure.as_json() if each.failure else None for each in given],
        )
        return dict(zip(given, ends, strict=True))

    async def stop_requested(self, session: int) -> list[tuple[UUID, int]]:
        """The session's running jobs that were asked to stop, each with its fence."""
        rows = await self._database.fetch(
            "SELECT id, fence FROM job WHERE session_id = $1 AND state = 'running' AND cancel_requested_at IS NOT NULL",
            session,
        )
        return [(row["id"], row["fence"]) for row in rows]

    async def time_out_starts(self) -> int:
        """Fail every job that was not started in time, one transaction each; returns how many."""
        return await self._one_by_one("SELECT start_timeout()")

    async def cancel_due(self, *, most_running: int) -> int:
        """Cancel every job whose own deadline (`cancelAfterSeconds`) is over, one transaction each; returns how many.

        A deadline that ends a running job counts as its caller's cancel: more than `most_running` a day pause submits.
        """
        return await self._one_by_one("SELECT cancel_due($1, $2)", most_running, CANCEL_PAUSE)

    async def end_retired(self) -> int:
        """Fail every job whose pool left the fleet an hour ago, one transaction each; returns how many."""
        return await self._one_by_one("SELECT retired_timeout()")

    async def end_drains(self) -> int:
        """Hand back every job of pools whose drain is over, one transaction each; returns how many."""
        return await self._one_by_one("SELECT drain_due()")

    async def sweep(self, *, most_running: int) -> None:
        """What one dispatcher does for all each second: say where each line begins, promote parked jobs, end late ones.

        `most_running` is how many running jobs an account may cancel a day. A row that breaks one part is logged and does
        not keep the others from theirs.
        """
        parts: dict[str, Callable[[], Awaitable[object]]] = {
            "floors": self._find_floors,
            "promotions": self._catch_up,
            "cancels": partial(self.cancel_due, most_running=most_running),
            "late starts": self.time_out_starts,
            "retired pools": self.end_retired,
            "drains": self.end_drains,
        }
        for name, part in parts.items():
            try:
                await part()
            except UNAVAILABLE:
                raise
            except asyncpg.PostgresError:
                log.exception("a part of the sweep broke", part=name)

    async def _find_floors(self) -> None:
        for pool in await pools.names(self._database):
            await self._database.execute("SELECT queue_floor($1)", pool)

    async def _catch_up(self) -> None:
        await self._database.execute("SELECT flow_catch_up()")

    async def _write(self, query: str, lease: Lease, *values: Any) -> Any:
        answer = await self._database.fetch_value(query, lease.job_id, lease.fence, *values)
        self._tell(lease.job_id)
        return answer


async def drain(database: Database, grace_seconds: float, *, host: str = "") -> None:
    """Ask every dispatcher (of `host` alone, when given) to claim nothing more, and to hand back what still runs when the
    grace has passed. It ends by `resume`, or five minutes after the grace.

    Returns when no such session holds a job, at the latest three seconds after the grace.
    """
    names = f"{host}:" if host else ""
    await database.execute(
        "WITH asked AS (SELECT id FROM session WHERE ended_at IS NULL AND starts_with(name, $2) ORDER BY id FOR UPDATE)"
        " UPDATE session SET drain_by = clock_timestamp() + $1 FROM asked WHERE session.id = asked.id",
        timedelta(seconds=grace_seconds),
        names,
    )
    end = time.monotonic() + grace_seconds + 3
    while time.monotonic() < end:
        if not await database.fetch_value(
            "SELECT EXISTS (SELECT FROM job JOIN session ON session.id = job.session_id"
            " WHERE job.state = 'running' AND session.ended_at IS NULL AND starts_with(session.name, $1))",
            names,
        ):
            return
        await asyncio.sleep(0.1)


async def resume(database: Database) -> None:
    """Let drained dispatchers claim again."""
    await database.execute("UPDATE session SET drain_by = NULL WHERE ended_at IS NULL AND drain_by IS NOT NULL")
