"""Pools: how many segments each may run at once."""

from __future__ import annotations

from collections.abc import Mapping

from core.database import Database


async def declare(database: Database, names: frozenset[str]) -> None:
    """Make the fleet's pools known; a submit that needs another is refused. Pools in use are never removed."""
    async with database.transaction() as connection:
        await connection.executemany(
            "INSERT INTO pool (name) VALUES ($1) ON CONFLICT DO NOTHING", [(name,) for name in sorted(names)]
        )
        await connection.execute(
            "DELETE FROM pool WHERE name <> ALL ($1::text[]) AND NOT EXISTS (SELECT FROM flow WHERE flow.pool = pool.name)",
            list(names),
        )


async def set_slots(database: Database, slots: Mapping[str, int]) -> None:
    """Write each pool's running replicas; the elected dispatcher does so every second."""
    await database.execute(
        """UPDATE pool SET slots = given.slots, updated_at = clock_timestamp()
           FROM unnest($1::text[], $2::int[]) AS given (name, slots)
           WHERE pool.name = given.name AND pool.slots <> given.slots""",
        list(slots),
        list(slots.values()),
    )


async def names(database: Database) -> list[str]:
    """Every pool of the fleet that is not paused."""
    return [row["name"] for row in await database.fetch("SELECT name FROM pool WHERE NOT paused ORDER BY name")]
