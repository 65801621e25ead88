"""Pools: how many segments each may run at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from core.database import Database

_ALL = """
SELECT pool.name, slots, paused, retired, drain_by, max_queue_seconds, coalesce(parked, 0) AS parked,
  coalesce(ready, 0) AS ready, coalesce(leased, 0) AS leased, coalesce(quarantined, 0) AS quarantined,
  coalesce(seconds, 0)::float8 / greatest(slots, 1) AS queue_seconds
FROM pool LEFT JOIN (
  SELECT pool, count(*) FILTER (WHERE state = 'parked') AS parked, count(*) FILTER (WHERE state = 'ready') AS ready,
    count(*) FILTER (WHERE state = 'leased') AS leased, count(*) FILTER (WHERE state = 'quarantined') AS quarantined,
    sum(cost) FILTER (WHERE state IN ('ready', 'leased')) AS seconds
  FROM queue GROUP BY pool
) AS line ON line.pool = pool.name
ORDER BY pool.name
"""


@dataclass(frozen=True)
class Pool:
    """A pool as it stands: its setting, its jobs by their state in the queue, and the seconds of work in line per slot."""

    name: str
    slots: int
    paused: bool
    retired: bool
    drain_by: datetime | None
    max_queue_seconds: float | None
    parked: int
    ready: int
    leased: int
    quarantined: int
    queue_seconds: float


async def declare(
    database: Database, names: frozenset[str], max_queue_seconds: Mapping[str, float | None] | None = None
) -> None:
    """Make `names` the fleet's pools; a submit that needs another is refused.

    A pool that left the fleet is retired, with whatever still waits in it, until a fleet has it again. Submits are refused
    while more than `max_queue_seconds` of work wait before them in a pool; a pool that it does not name has no limit.
    """
    most = max_queue_seconds or {}
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO pool (name) SELECT unnest($1::text[]) ON CONFLICT (name) DO NOTHING", sorted(names)
        )
        await connection.execute(
            "UPDATE pool SET retired = NOT retired, slots = 0, updated_at = clock_timestamp() FROM"
            " (SELECT name FROM pool WHERE retired = (name = ANY ($1::text[])) ORDER BY name FOR NO KEY UPDATE) AS moved"
            " WHERE pool.name = moved.name",
            list(names),
        )
        await connection.execute(
            "UPDATE pool SET max_queue_seconds = changed.most FROM (SELECT pool.name, most FROM pool"
            " LEFT JOIN unnest($1::text[], $2::float8[]) AS given (name, most) USING (name)"
            " WHERE max_queue_seconds IS DISTINCT FROM most ORDER BY pool.name FOR NO KEY UPDATE OF pool) AS changed"
            " WHERE pool.name = changed.name",
            list(most),
            list(most.values()),
        )


async def set_slots(database: Database, slots: Mapping[str, int]) -> None:
    """Write each pool's running replicas; the elected dispatcher does so every second."""
    await database.execute(
        """UPDATE pool SET slots = given.slots, updated_at = clock_timestamp()
           FROM (SELECT pool.name, given.slots FROM unnest($1::text[], $2::int[]) AS given (name, slots)
                 JOIN pool ON pool.name = given.name AND pool.slots <> given.slots AND NOT pool.retired
                 ORDER BY pool.name FOR NO KEY UPDATE OF pool) AS given
           WHERE pool.name = given.name""",
        list(slots),
        list(slots.values()),
    )


async def every(database: Database) -> list[Pool]:
    """Every pool that there ever was, and what is in it."""
    return [Pool(**row) for row in await database.fetch(_ALL)]


async def names(database: Database) -> list[str]:
    """Every pool of the fleet that is not paused."""
    return [
        row["name"]
        for row in await database.fetch("SELECT name FROM pool WHERE NOT paused AND NOT retired ORDER BY name")
    ]
