"""The state table, as Python says it and as the database enforces it."""

from __future__ import annotations

from itertools import permutations
from typing import get_args

import asyncpg
import pytest

from core.database import Database
from core.ids import uuid7
from jobs.models import FINAL, TRANSITIONS, Failure, State
from tests.jobs.world import World

STATES: tuple[State, ...] = get_args(State)


async def allowed(database: Database, world: World, old: State, new: State) -> bool:
    """Whether the database lets a job go from `old` to `new`."""
    account = await world.account()
    failure = {"code": "x", "message": "x", "retryable": False}
    async with database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        job_id = uuid7()
        await connection.execute(
            """INSERT INTO job (id, account_id, task, state, effective_input, input_adjustments, warnings, billing,
                 amount, pools, request_id, start_by, finished_at, failure)
               VALUES ($1, $2, 't', $3, '{}', '[]', '[]', '{}', 1, '{gpu}', 'r', now(),
                 CASE WHEN $4 THEN now() END, CASE WHEN $3 = 'failed' THEN $5::jsonb END)""",
            job_id,
            account,
            old,
            old in FINAL,
            failure,
        )
        try:
            await connection.execute(
                """UPDATE job SET state = $2, finished_at = CASE WHEN $3 THEN now() END,
                     failure = CASE WHEN $2 = 'failed' THEN $4::jsonb END WHERE id = $1""",
                job_id,
                new,
                new in FINAL,
                failure,
            )
        except asyncpg.PostgresError as error:
            if error.sqlstate != "KT902":
                raise
            return False
        finally:
            await transaction.rollback()
    return True


async def test_the_database_allows_exactly_the_state_table(world: World) -> None:
    found: dict[State, set[State]] = {state: set() for state in STATES}
    for old, new in permutations(STATES, 2):
        if await allowed(world.database, world, old, new):
            found[old].add(new)
    assert found == TRANSITIONS


def test_final_states_lead_nowhere() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == FINAL


async def test_an_unknown_state_is_refused(world: World) -> None:
    job = await world.submit(await world.account())
    with pytest.raises(asyncpg.PostgresError):
        await world.database.execute("UPDATE job SET state = 'paused' WHERE id = $1", job.id)


def test_a_failure_leaves_out_what_it_has_not() -> None:
    assert Failure("a", "b", retryable=True).as_json() == {"code": "a", "message": "b", "retryable": True}
    assert Failure("a", "b", retryable=False, path="input.x").as_json()["path"] == "input.x"
