from __future__ import annotations

from pathlib import Path

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from core.log import logger
from jobs.leases import Leases, Outcome
from tests.serving import FOX, Served, serving

TRACE = {"X-Request-Id": "trace-7:submit"}


async def told(served: Served) -> tuple[list[str], list[str]]:
    """The request ids of all events of jobs and of their movements, in their order."""
    database = served.services.database
    events = await database.fetch(
        "SELECT data ->> 'requestId' AS id FROM event WHERE data ? 'requestId' ORDER BY job_id, seq"
    )
    movements = await database.fetch("SELECT request_id AS id FROM movement WHERE hold_id IS NOT NULL ORDER BY id")
    return [row["id"] for row in events], [row["id"] for row in movements]


async def test_one_id_leads_from_the_answer_to_log_event_and_ledger(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        with capture_logs([merge_contextvars]) as lines:
            answer = await served.client.post("/api/v1/media/jobs", json=FOX, headers=TRACE)
        assert answer.headers["x-request-id"] == "trace-7:submit"
        assert [(line["event"], line["request_id"]) for line in lines] == [("request", "trace-7:submit")]
        lease = await served.claim()
        assert lease.request_id == "trace-7:submit"
        await served.succeed(lease)
        events, movements = await told(served)
        assert events == ["trace-7:submit"]
        assert movements == ["trace-7:submit", "trace-7:submit"]


@pytest.mark.parametrize("running", [False, True])
async def test_a_cancel_has_an_id_of_its_own_in_event_and_ledger(
    database_url: str, tmp_path: Path, running: bool
) -> None:
    async with serving(database_url, tmp_path) as served:
        job = (await served.client.post("/api/v1/media/jobs", json=FOX, headers=TRACE)).json()["jobId"]
        lease = await served.claim() if running else None
        cancel = {"X-Request-Id": "trace-8"}
        await served.client.delete("/api/v1/media/jobs", params={"jobId": job}, headers=cancel)
        if lease is not None:
            assert await Leases(served.services.database).settle(lease, "cancelled", Outcome()) == "cancelled"
        assert await told(served) == (["trace-7:submit", "trace-8"], ["trace-7:submit", "trace-8"])


async def test_a_deadline_has_the_submits_id(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        await served.client.post("/api/v1/media/jobs", json={**FOX, "cancelAfterSeconds": 1}, headers=TRACE)
        await served.services.database.execute("UPDATE job SET cancel_by = now() - interval '1 s'")
        await Leases(served.services.database).sweep(most_running=20)
        assert await told(served) == (["trace-7:submit"], ["trace-7:submit", "trace-7:submit"])


async def test_a_drawn_id_is_the_same_everywhere(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        answer = await served.client.post("/api/v1/media/jobs", json=FOX)
        drawn = answer.headers["x-request-id"]
        assert await told(served) == ([drawn], [drawn])


async def test_lines_outside_a_request_carry_none() -> None:
    with capture_logs([merge_contextvars]) as lines:
        logger("tests").info("alone")
    assert "request_id" not in lines[0]
