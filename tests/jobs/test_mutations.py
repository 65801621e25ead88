"""Bugs that are planted in the SQL, and found: a check that lets one of them pass proves nothing.

Each replaces a piece of one real function, and breaks loudly when that piece is no longer there.
"""

from __future__ import annotations

import asyncpg
import pytest

from killatamata.embedded_postgres import EmbeddedPostgres
from tests.jobs.machine import explore
from tests.jobs.model import Wrong
from tests.jobs.pairs import interleave
from tests.jobs.scene import Bench, Plant

FOUND = (Wrong, asyncpg.PostgresError)
MOST_LINES = 60

SEQUENTIAL = {
    "settle does not check the fence": Plant(
        "settle", "WHERE id = p_job AND fence = p_fence AND state", "WHERE id = p_job AND state"
    ),
    "no other end of a lease checks the fence": Plant(
        "job_owned", "WHERE id = p_job AND fence = p_fence AND state", "WHERE id = p_job AND state"
    ),
    "a lease does not raise the fence": Plant(
        "claim", "session_id = p_session, fence = fence + 1,", "session_id = p_session, fence = greatest(fence, 1),"
    ),
    "settle ignores a cancel": Plant("settle", "IF v_cancelled THEN", "IF false THEN"),
    "a hand-back ignores a cancel": Plant(
        "hand_back", "IF v_job.cancel_requested_at IS NOT NULL THEN", "IF false THEN"
    ),
    "a cancel of a running job ends it under its worker": Plant(
        "cancel", "IF v_job.session_id IS NULL THEN", "IF true THEN"
    ),
    "sessions expire whether they beat or not": Plant(
        "session_reclaim", "beat_at < clock_timestamp() - session_expiry()", "true"
    ),
    "no session expires": Plant("session_reclaim", "beat_at < clock_timestamp() - session_expiry()", "false"),
    "jobs of live sessions are taken away": Plant("session_hand_back", "session.ended_at IS NOT NULL AND", ""),
    "a permit outlives its session": Plant(
        "permitted", "AND (session.beat_at > clock_timestamp() - session_expiry() OR restarting())", ""
    ),
    "nobody follows who leaves": Plant("flow_left", "IF v_parked > 0 THEN", "IF false THEN"),
    "a claim takes one too many": Plant("claim", "v_pool.slots + 1 - count(*)", "v_pool.slots + 2 - count(*)"),
    "a paused pool is claimed from": Plant("claim", "AND NOT paused FOR NO KEY UPDATE", "FOR NO KEY UPDATE"),
    "fresh work goes before begun work": Plant(
        "claim", "TABLE begun UNION ALL TABLE fresh", "TABLE fresh UNION ALL TABLE begun"
    ),
    "a failed job is paid": Plant(
        "job_end", "p_state = 'succeeded', v_request_id", "p_state <> 'cancelled', v_request_id"
    ),
    "an ended job stays in the queue": Plant("job_end", "PERFORM flow_leave(p_job);", ""),
    "a late worker's progress is written": Plant(
        "job_progress", "WHERE id = p_job AND fence = p_fence AND state = 'running'", "WHERE id = p_job"
    ),
    "a key makes a job each time": Plant("submit", "IF v_replay.key IS NOT NULL THEN", "IF false THEN"),
    "the last attempt is not the last": Plant("hand_back", "IF p_last OR", "IF"),
    "a failed start is no attempt": Plant(
        "hand_back", "fence = fence + 1, attempts = attempts + p_counts::int", "fence = fence + 1, attempts = attempts"
    ),
}
AT_ONCE = {
    "a cancel takes the wallet before the job": Plant(
        "cancel",
        "PERFORM FROM queue WHERE job_id = p_job FOR UPDATE;",
        "PERFORM FROM wallet WHERE account_id = p_account FOR UPDATE; PERFORM FROM queue WHERE job_id = p_job FOR UPDATE;",
    ),
    "an end takes the wallet before the flow": Plant(
        "job_end",
        "PERFORM flow_leave(p_job);",
        "PERFORM FROM wallet WHERE account_id = v_account FOR UPDATE; PERFORM flow_leave(p_job);",
    ),
    "settlements take the flow before the queue": Plant("settle_all", "ORDER BY job_id FOR UPDATE", "ORDER BY job_id"),
    "a cancel decides by what it saw before it had the job": Plant(
        "cancel",
        "SELECT * INTO v_job FROM job WHERE id = p_job FOR UPDATE;",
        "",
    ),
}


@pytest.mark.parametrize("plant", SEQUENTIAL.values(), ids=SEQUENTIAL)
def test_the_model_finds_a_planted_bug(postgres: EmbeddedPostgres, template: str, plant: Plant) -> None:
    with Bench(postgres, template, "spoilt").opened(plant) as bench:
        with pytest.raises(FOUND):
            explore(bench, MOST_LINES)
        print(f"found in line {bench.tried - 1}")


@pytest.mark.parametrize("plant", AT_ONCE.values(), ids=AT_ONCE)
def test_two_at_once_find_a_planted_bug(postgres: EmbeddedPostgres, template: str, plant: Plant) -> None:
    with Bench(postgres, template, "spoilt").opened(plant) as bench:
        with pytest.raises(FOUND):
            interleave(bench, every=True)
        print(f"found at pair {bench.tried}")


def test_a_plant_that_does_not_take_is_told(postgres: EmbeddedPostgres, template: str) -> None:
    plant = Plant("settle", "no such text", "")
    with pytest.raises(LookupError, match="plant this bug anew"), Bench(postgres, template, "spoilt").opened(plant):
        pass
