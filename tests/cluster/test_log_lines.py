"""What a dispatcher logs of a lease, and what it passes on, names the request that submitted the job."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from cluster import dispatcher
from cluster.steps import LeaseLost, Steps
from core.database import Database
from core.log import logger
from jobs.leases import Outcome
from jobs.models import Job
from tests.cluster.dispatching import INPUT, POOL, Dispatching, dispatching, ended, failing, in_turn, painting
from tests.leasing import submitted, until_true

__all__ = ["dispatching"]


async def request_of(database: Database, job: Job) -> str:
    """The id of the request that submitted the job."""
    return str(await database.fetch_value("SELECT request_id FROM job WHERE id = $1", job.id))


async def test_every_line_about_a_lease_carries_its_requests_id(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILLATAMATA_LOG_LEVEL", "info")
    handle = dispatching.start(in_turn(failing, failing, painting))
    # A dispatcher sets up the log when it is made; a logger used before keeps what it began with.
    monkeypatch.setattr(dispatcher, "log", logger(dispatcher.__name__))
    with capture_logs([merge_contextvars]) as lines:
        jobs = [await submitted(database, POOL, INPUT), await submitted(database, POOL, INPUT)]
        requests = {job.id: await request_of(database, job) for job in jobs}
        for job in jobs:
            await ended(database, job)

        def told() -> list[tuple[Any, ...]]:
            return sorted(
                (line["job"], line["request_id"], line["event"])
                for line in lines
                if line["event"] in ("the engine failed", "lease ended") and line["fence"] > 0
            )

        await until_true(lambda: len(told()) == 6, "two failures, four ends")
        assert {each[:2] for each in told()} == {(str(job), request) for job, request in requests.items()}
        assert sum(event == "the engine failed" for *_, event in told()) == 2
    asked = {(stream.call.job_id, stream.call.request_id) for stream in handle.streams}
    assert asked == set(requests.items())


async def test_a_lost_lease_is_told_with_its_requests_id(
    dispatching: Dispatching, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chain(steps: Steps) -> Outcome:
        raise LeaseLost

    monkeypatch.setattr(dispatcher, "CHAINS", {"test": (chain,)})
    dispatching.start()
    monkeypatch.setattr(dispatcher, "log", logger(dispatcher.__name__))
    with capture_logs([merge_contextvars]) as lines:
        job = await submitted(database, POOL, task="test")
        lost = await until_true(lambda: [line for line in lines if line["event"] == "lease lost"], "the line")
    assert (lost[0]["request_id"], lost[0]["job"]) == (await request_of(database, job), str(job.id))
