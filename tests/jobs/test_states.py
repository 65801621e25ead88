"""The table of states, as Python says it and as the database enforces it."""

from __future__ import annotations

import runpy
from itertools import product
from pathlib import Path
from typing import get_args
from uuid import UUID

import asyncpg
import pytest

from core.database import Connection
from jobs.states import ATTEMPT, FINAL, JOB, MACHINES, NOTHING, QUEUE, REFUSED, Machine, State, as_sql
from tests.jobs.world import World

ROWS = {
    "job": """INSERT INTO job (id, account_id, task, state, effective_input, input_adjustments, warnings, billing, amount,
        pools, request_id, start_by, finished_at, failure)
      SELECT gen_random_uuid(), $1, 't', $2::text, '{}', '[]', '[]', '{}', 1, '{gpu}', 'r', now(),
        CASE WHEN $2 IN ('succeeded', 'failed', 'cancelled') THEN now() END, CASE WHEN $2 = 'failed' THEN '{}'::jsonb END""",
    "queue": """INSERT INTO queue (job_id, account_id, pool, state, class, turn, tag, cost)
      SELECT id, account_id, 'gpu', $2::text, 1, 0, CASE WHEN $2 <> 'parked' THEN 0 END, 1 FROM job WHERE account_id = $1""",
    "attempt": """INSERT INTO attempt (job_id, fence, session_id, ended_at, outcome)
      SELECT job.id, 9, session.id, CASE WHEN $2::text = 'ended' THEN now() END, CASE WHEN $2 = 'ended' THEN 'x' END
      FROM job, session WHERE account_id = $1""",
}
CHANGES = {
    "job": """UPDATE job SET state = $2::text,
      finished_at = CASE WHEN $2 IN ('succeeded', 'failed', 'cancelled') THEN now() END,
      failure = CASE WHEN $2 = 'failed' THEN '{}'::jsonb END WHERE account_id = $1""",
    "queue": """UPDATE queue SET state = $2::text, tag = CASE WHEN $2 <> 'parked' THEN 0 END WHERE account_id = $1""",
    "attempt": """UPDATE attempt SET ended_at = CASE WHEN $2::text = 'ended' THEN clock_timestamp() END,
      outcome = CASE WHEN $2 = 'ended' THEN 'y' END FROM job WHERE job.id = job_id AND account_id = $1""",
}


async def put(connection: Connection, machine: Machine, account: UUID, state: str) -> None:
    """A row in that state, whatever the triggers think of it, and the rows that it needs."""
    await connection.execute("SET LOCAL session_replication_role = replica")
    if machine is not JOB:
        await connection.execute(ROWS["job"], account, "queued")
    if state != NOTHING:
        await connection.execute(ROWS[machine.table], account, state)
    await connection.execute("SET LOCAL session_replication_role = origin")


async def allowed(world: World, machine: Machine, before: str, after: str) -> bool:
    """Whether the database lets a row go from `before` to `after`."""
    account = await world.account(0)
    async with world.database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await put(connection, machine, account, before)
            if before == NOTHING:
                done = await connection.execute(ROWS[machine.table], account, after)
            elif after == NOTHING:
                done = await connection.execute(f"DELETE FROM {machine.table}")
            else:
                done = await connection.execute(CHANGES[machine.table], account, after)
            assert done.endswith(" 1"), done
        except asyncpg.PostgresError as error:
            if error.sqlstate != REFUSED:
                raise
            return False
        finally:
            await transaction.rollback()
    return True


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.table)
async def test_the_database_allows_exactly_the_table(world: World, machine: Machine) -> None:
    ends = [*machine.tests, NOTHING]
    pairs = [(before, after) for before, after in product(ends, ends) if before != after]
    found = {(before, after) for before, after in pairs if await allowed(world, machine, before, after)}
    assert found == machine.ways.keys()


async def test_an_attempt_ends_once(world: World) -> None:
    assert not await allowed(world, ATTEMPT, "ended", "ended")


async def test_a_refusal_names_the_way(world: World) -> None:
    job = await world.submit(await world.account())
    with pytest.raises(asyncpg.PostgresError, match="job has no way from queued to succeeded") as refused:
        await world.database.execute("UPDATE job SET state = 'succeeded', finished_at = now() WHERE id = $1", job.id)
    assert refused.value.sqlstate == REFUSED
    with pytest.raises(asyncpg.PostgresError, match="job has no way from queued to nothing"):
        await world.database.execute("DELETE FROM job WHERE id = $1", job.id)


def test_final_states_lead_nowhere_but_off_the_record() -> None:
    assert set(JOB.tests) == set(get_args(State))
    assert {state for state in JOB.tests if JOB.following(state) <= {NOTHING}} == FINAL
    assert {state for state in JOB.tests if NOTHING in JOB.following(state)} == FINAL


def test_every_state_can_be_reached_and_left_or_is_the_end() -> None:
    for machine in MACHINES:
        reached, left = {NOTHING}, [NOTHING]
        while left:
            new = machine.following(left.pop()) - reached
            reached |= new
            left += new
        assert reached >= machine.tests.keys()
    assert all(QUEUE.following(state) >= {NOTHING} for state in QUEUE.tests)


def test_the_sql_and_the_page_are_written_from_the_table() -> None:
    root = Path(__file__).parents[2]
    page = runpy.run_path(str(root / "scripts" / "state_table.py"))["page"]
    assert (root / "jobs/sql/states.sql").read_text() == as_sql()
    assert (root / "docs/states.md").read_text() == page()
