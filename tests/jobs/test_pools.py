"""Pools: known by their fleet, sized by what runs."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from jobs import pools
from tests.jobs.world import World


async def slots(world: World) -> dict[str, int]:
    rows = await world.database.fetch("SELECT name, slots FROM pool")
    return {row["name"]: row["slots"] for row in rows}


async def test_declaring_again_changes_nothing(world: World) -> None:
    before = await world.database.fetch("SELECT * FROM pool ORDER BY name")
    await pools.declare(world.database, frozenset({"cpu", "gpu"}))
    assert await world.database.fetch("SELECT * FROM pool ORDER BY name") == before
    assert await pools.names(world.database) == ["cpu", "gpu"]


async def test_a_retired_pool_has_no_slots_and_is_not_claimed_from(world: World) -> None:
    await pools.declare(world.database, frozenset({"gpu", "new"}))
    await pools.set_slots(world.database, {"cpu": 5, "gpu": 3, "new": 1, "unknown": 9})
    assert await slots(world) == {"cpu": 0, "gpu": 3, "new": 1}
    assert await pools.names(world.database) == ["gpu", "new"]


async def test_a_paused_pool_is_not_claimed_from(world: World) -> None:
    await world.database.execute("UPDATE pool SET paused = true WHERE name = 'cpu'")
    assert await pools.names(world.database) == ["gpu"]


async def test_a_fleet_may_have_no_pool_at_all(world: World) -> None:
    await pools.declare(world.database, frozenset())
    await pools.set_slots(world.database, {})
    assert await pools.names(world.database) == []


async def test_slots_are_a_whole_number_from_zero_on(world: World) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await pools.set_slots(world.database, {"gpu": -1})
    assert await slots(world) == {"cpu": 2, "gpu": 2}


async def test_fleets_applied_at_once_while_slots_are_written_do_not_deadlock(world: World) -> None:
    names = [f"pool{number}" for number in range(12)]
    await asyncio.gather(
        *(pools.declare(world.database, frozenset(names[start:])) for start in range(6)),
        *(pools.set_slots(world.database, dict.fromkeys(reversed(names), start)) for start in range(6)),
    )
    assert set(await pools.names(world.database)) <= set(names)
