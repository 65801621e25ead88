"""The checker itself: it sees what it is there to see."""

from __future__ import annotations

import pytest

from core.database import Database
from tests.jobs.invariants import broken
from tests.jobs.world import World

PLANTS = {
    "UPDATE flow SET active = active + 1": "counters",
    "UPDATE flow SET parked = parked + 1": "counters",
    "DELETE FROM queue": "queue row",
    "UPDATE queue SET state = 'leased', tag = 0": "queue row",
    "UPDATE queue SET state = 'quarantined' WHERE state = 'ready'": "quarantine",
    "INSERT INTO quarantine (job_id, reason) SELECT id, 'why' FROM job": "quarantine",
    "UPDATE hold SET state = 'released', ended_at = now()": "hold does not fit",
    "UPDATE wallet SET held = held + 1": "drifts",
    "UPDATE job SET sequence = sequence + 1": "gap",
    "DELETE FROM event": "gap",
    "INSERT INTO session (name) VALUES ('x'); UPDATE job SET session_id = (SELECT max(id) FROM session)": "session",
    "UPDATE job SET starts = 1": "counted",
    "UPDATE job SET outputs = '[1]'": "outputs",
    "UPDATE account SET concurrency = 5": "room",
}


@pytest.mark.parametrize(("plant", "name"), PLANTS.items(), ids=PLANTS.values())
async def test_a_planted_break_is_seen(database: Database, plant: str, name: str) -> None:
    world = World(database)
    await world.open()
    account = await world.account(concurrency=1)
    for _ in range(2):
        await world.submit(account)
    assert await broken(database) == []
    async with database.transaction() as connection:
        # Past the triggers, which refuse some of these.
        await connection.execute(f"SET LOCAL session_replication_role = replica; {plant}")
    assert any(name in rule for rule in await broken(database))
