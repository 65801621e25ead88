"""What a job's record is made of."""

from __future__ import annotations

import asyncpg
import pytest

from jobs.models import Failure
from tests.jobs.world import World


async def test_an_unknown_state_is_refused(world: World) -> None:
    job = await world.submit(await world.account())
    with pytest.raises(asyncpg.PostgresError):
        await world.database.execute("UPDATE job SET state = 'paused' WHERE id = $1", job.id)


def test_a_failure_leaves_out_what_it_has_not() -> None:
    assert Failure("a", "b", retryable=True).as_json() == {"code": "a", "message": "b", "retryable": True}
    assert Failure("a", "b", retryable=False, path="input.x").as_json()["path"] == "input.x"
