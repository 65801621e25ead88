"""Pools: how many segments each may run at once."""

from __future__ import annotations

from collections.abc import Mapping

from core.database import Database


async def declare(database: Database, names: frozenset[str]) -> None:
    """Make `names` the fleet's pools; a submit that needs another is refused.

    A pool that left the fleet is retired, with whatever still waits in it, until a fleet has it again.
    """
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


async def names(database: Database) -> list[str]:
    """Every pool of the fleet that is not paused."""
    return [
        row["name"]
        for row in await database.fetch("SELECT name FROM pool WHERE NOT paused AND NOT retired ORDER BY name")
    ]
