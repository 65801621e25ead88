"""The queue as it stood a moment ago, read once for all who ask meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from core.database import Database

FRESH_SECONDS = 1.0
POSITIONS_KNOWN = 10_000
"""Jobs of each pool that are told their place; who stands behind them is told none."""

_READ = """
WITH work AS MATERIALIZED (
  SELECT pool, account_id, sum(cost) AS seconds, count(*) AS jobs FROM (
    SELECT pool, account_id, cost FROM queue WHERE state = 'ready'
    UNION ALL SELECT pool, account_id, cost FROM queue WHERE state = 'leased') AS each
  GROUP BY pool, account_id
)
SELECT pool.name, greatest(pool.slots, 1) AS slots, pool.max_queue_seconds AS most, demand.seconds, line.jobs,
  parked.accounts, parked.seconds AS parked_seconds
FROM pool,
  LATERAL (SELECT coalesce(sum(seconds), 0) AS seconds FROM work WHERE work.pool = pool.name) AS demand,
  LATERAL (SELECT array_agg(account_id) AS accounts,
             array_agg(flow.parked * coalesce(work.seconds / work.jobs, 0)) AS seconds
           FROM flow LEFT JOIN work USING (account_id, pool)
           WHERE flow.pool = pool.name AND flow.parked > 0 AND pool.max_queue_seconds IS NOT NULL) AS parked,
  LATERAL (SELECT array_agg(job_id ORDER BY begun DESC, tag, job_id) AS jobs FROM (
             SELECT job_id, begun, tag FROM queue WHERE queue.pool = pool.name AND queue.state = 'ready'
             ORDER BY begun DESC, tag, job_id LIMIT $1) AS first) AS line
WHERE NOT pool.retired
"""


@dataclass(frozen=True)
class Snapshot:
    """`waiting`: seconds of work before a new job, per pool and slot. `positions`: places in line, from 1.

    `slots` of each pool are at least one, for whoever waits wakes it. `most`: the seconds that may wait in a pool with a
    limit. `parked`: in these pools, the seconds of work per slot of an account's jobs beyond its concurrency, taken to be
    of the mean run time of its jobs in line.
    """

    waiting: Mapping[str, float]
    positions: Mapping[UUID, int]
    slots: Mapping[str, int]
    most: Mapping[str, float]
    parked: Mapping[tuple[str, UUID], float]

    def queue_seconds(self, pools: Iterable[str]) -> float:
        """How long a job that passes these pools will wait, by the slowest of them."""
        return max((self.waiting.get(pool, 0.0) for pool in pools), default=0.0)

    def wait_of(self, account_id: UUID, pool: str) -> float:
        """How long a new job of the account waits in the pool at least, in seconds: its own parked jobs go before it."""
        return self.waiting.get(pool, 0.0) + self.parked.get((pool, account_id), 0.0)


class Queues:
    """Reads the snapshot; it is at most `FRESH_SECONDS` old when it is handed out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._snapshot = Snapshot({}, {}, {}, {}, {})
        self._read_at = -FRESH_SECONDS
        self._reading = asyncio.Lock()

    async def snapshot(self) -> Snapshot:
        """The queue as it stood."""
        async with self._reading:
            if time.monotonic() - self._read_at >= FRESH_SECONDS:
                rows = await self._database.fetch(_READ, POSITIONS_KNOWN)
                self._snapshot = Snapshot(
                    waiting={row["name"]: row["seconds"] / row["slots"] for row in rows},
                    positions={job: place for row in rows for place, job in enumerate(row["jobs"] or (), 1)},
                    slots={row["name"]: row["slots"] for row in rows},
                    most={row["name"]: row["most"] for row in rows if row["most"] is not None},
                    parked={
                        (row["name"], account): seconds / row["slots"]
                        for row in rows
                        for account, seconds in zip(row["accounts"] or (), row["parked_seconds"] or (), strict=True)
                    },
                )
                self._read_at = time.monotonic()
            return self._snapshot
