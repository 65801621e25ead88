"""Reads of a job that has not changed, which are answered from memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from api.seen import Seen, SeenJobs
from api.views import job_answer
from core.ids import decode
from jobs import snapshot
from jobs.leases import Leases, Outcome
from jobs.models import Job
from tests.serving import Served, serving

JOBS = "/api/v1/media/jobs"


@pytest.fixture
async def served(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setattr(snapshot, "FRESH_SECONDS", 0.0)
    async with serving(database_url, tmp_path) as made:
        yield made


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """The jobs that were made into answers."""
    made: list[UUID] = []

    def counting(services: Any, job: Job, **how: Any) -> Any:
        made.append(job.id)
        return job_answer(services, job, **how)

    monkeypatch.setattr("api.jobs.job_answer", counting)
    return made


async def read(served: Served, job_id: str) -> httpx.Response:
    answer = await served.client.get(JOBS, params={"jobId": job_id})
    assert answer.status_code == 200, answer.text
    return answer


async def test_a_job_that_stays_as_it_is_is_made_into_an_answer_once(served: Served, rendered: list[UUID]) -> None:
    job_id = (await served.submit())["jobId"]
    first, second = await read(served, job_id), await read(served, job_id)
    assert rendered == [decode("job", job_id)]
    assert first.content == second.content
    assert second.headers["Retry-After"] == "1"
    assert second.headers["X-Request-Id"] != first.headers["X-Request-Id"]


async def test_every_change_is_seen_by_the_next_read(served: Served) -> None:
    ahead, job_id = (await served.submit())["jobId"], (await served.submit())["jobId"]
    told = [(await read(served, job_id)).json()]
    first = await served.claim()
    told.append((await read(served, job_id)).json())
    lease = await served.claim()
    told.append((await read(served, job_id)).json())
    await Leases(served.services.database).progress(lease, 0.25)
    told.append((await read(served, job_id)).json())
    await served.client.delete(JOBS, params={"jobId": job_id})
    told.append((await read(served, job_id)).json())
    assert await Leases(served.services.database).settle(lease, "succeeded", Outcome()) == "cancelled"
    told += [(await read(served, job_id)).json(), (await read(served, job_id)).json()]
    assert [(each["status"], each["queuePosition"], each["progress"]) for each in told] == [
        ("queued", 2, 0),
        ("queued", 1, 0),
        ("running", None, 0),
        ("running", None, 0.25),
        ("running", None, 0.25),
        ("cancelled", None, 0.25),
        ("cancelled", None, 0.25),
    ]
    assert told[3]["cancelRequestedAt"] is None
    assert told[4]["cancelRequestedAt"] is not None
    assert told[-1]["billing"]["state"] == "released"
    assert first.job_id == decode("job", ahead)


async def test_what_one_account_has_seen_is_not_told_to_another(served: Served) -> None:
    job_id = (await served.submit())["jobId"]
    await read(served, job_id)
    async with await served.another() as stranger:
        assert (await stranger.get(JOBS, params={"jobId": job_id})).status_code == 404


async def test_a_job_that_has_ended_is_not_kept(served: Served) -> None:
    job_id = (await served.submit())["jobId"]
    wanted = decode("job", job_id)
    assert wanted is not None
    await read(served, job_id)
    assert served.services.seen.get(wanted) is not None
    await served.client.delete(JOBS, params={"jobId": job_id})
    await read(served, job_id)
    assert served.services.seen.get(wanted) is None


def test_only_so_many_are_kept_and_the_longest_unread_goes_first() -> None:
    kept, answer = SeenJobs(most=2), Seen((1, 1), None, "")  # type: ignore[arg-type]
    first, second, third = uuid4(), uuid4(), uuid4()
    kept.keep(first, answer)
    kept.keep(second, answer)
    assert kept.get(first) is answer
    kept.keep(third, answer)
    assert (kept.get(first), kept.get(second), kept.get(third)) == (answer, None, answer)
