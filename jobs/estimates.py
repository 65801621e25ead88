"""How long a job will take: what waits before it in its pools, and its own run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from core.database import Database

_P90_FACTOR = 1.6
"""Before anything was measured: the 90th percentile of a run over its prior, taken as 1.6."""


async def estimate(
    database: Database, pools: Sequence[str], prior_seconds: float, *, besides: UUID | None = None
) -> dict[str, Any]:
    """The `durationEstimate` in seconds: of a quote, or of the submitted job `besides`, which does not wait for itself."""
    waiting = await database.fetch_value(
        """SELECT coalesce(max(waiting / greatest(slots, 1)), 0) FROM (
             SELECT pool.name, pool.slots, coalesce(sum(queue.cost), 0) AS waiting
             FROM pool LEFT JOIN queue ON queue.pool = pool.name AND queue.state IN ('ready', 'leased')
               AND queue.job_id IS DISTINCT FROM $2
             WHERE pool.name = ANY ($1) GROUP BY pool.name, pool.slots) AS demand""",
        list(pools),
        besides,
    )
    queue_seconds = float(waiting)
    return {
        "queueSeconds": round(queue_seconds, 1),
        "runSeconds": round(prior_seconds, 1),
        "totalSeconds": round(queue_seconds + prior_seconds, 1),
        "p90Seconds": round(queue_seconds + prior_seconds * _P90_FACTOR, 1),
        "outputSeconds": None,
        "basis": "prior",
    }
