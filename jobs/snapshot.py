"""The queue as it stood a moment ago, read once for all who ask meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

from core.database import Database

FRESH_SECONDS = 1.0
POSITIONS_KNOWN = 10_000
"""Jobs of each pool that are told their place; who stands behind them is told none."""

_READ = """
SELECT pool.name, demand.seconds / greatest(pool.slots, 1) AS waiting, line.jobs
FROM pool,
  LATERAL (SELECT coalesce(sum(cost), 0) AS seconds FROM queue
           WHERE queue.pool = pool.name AND queue.state IN ('ready', 'leased')) AS demand,
  LATERAL (SELECT array_agg(job_id ORDER BY begun DESC, tag, job_id) AS jobs FROM (
             SELECT job_id, begun, tag FROM queue WHERE queue.pool = pool.name AND queue.state = 'ready'
             ORDER BY begun DESC, tag, job_id LIMIT $1) AS first) AS line
WHERE NOT pool.retired
"""


@dataclass(frozen=True)
class Snapshot:
    """`waiting`: seconds of work before a new job, per pool and slot. `positions`: places in line, from 1."""

    waiting: Mapping[str, float]
    positions: Mapping[UUID, int]

    def queue_seconds(self, pools: Iterable[str]) -> float:
        """How long a job that passes these pools will wait, by the slowest of them."""
        return max((self.waiting.get(pool, 0.0) for pool in pools), default=0.0)


class Queues:
    """Reads the snapshot; it is at most `FRESH_SECONDS` old when it is handed out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._snapshot = Snapshot(MappingProxyType({}), MappingProxyType({}))
        self._read_at = -FRESH_SECONDS
        self._reading = asyncio.Lock()

    async def snapshot(self) -> Snapshot:
        """The queue as it stood."""
        async with self._reading:
            if time.monotonic() - self._read_at >= FRESH_SECONDS:
                rows = await self._database.fetch(_READ, POSITIONS_KNOWN)
                self._snapshot = Snapshot(
                    {row["name"]: float(row["waiting"]) for row in rows},
                    {job: place for row in rows for place, job in enumerate(row["jobs"] or (), 1)},
                )
                self._read_at = time.monotonic()
            return self._snapshot
