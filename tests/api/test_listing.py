"""Lists of jobs over a real database: pages, filters, and questions that make no sense."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobs import snapshot
from tests.serving import Served, serving

JOBS = "/api/v1/media/jobs"
OUTPUT = {"mimeType": "image/webp", "bytes": 3, "sha256": "0" * 64}


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(database_url, tmp_path) as made:
        yield made


async def listed(served: Served, **asked: Any) -> tuple[list[str], str | None]:
    answer = await served.client.get(JOBS, params=asked)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return [job["jobId"] for job in body["jobs"]], body["nextCursor"]


async def test_pages_are_newest_first_and_complete(served: Served) -> None:
    made = [(await served.submit())["jobId"] for _ in range(5)]
    first, cursor = await listed(served, limit=2)
    assert first == made[:2:-1]
    second, cursor = await listed(served, limit=2, cursor=cursor)
    newer = (await served.submit())["jobId"]
    third, end = await listed(served, limit=2, cursor=cursor)
    assert (first + second + third, end) == (made[::-1], None)
    assert (await listed(served))[0] == [newer, *made[::-1]]


async def test_a_listed_job_is_the_job_that_is_read(served: Served) -> None:
    job_id = (await served.submit())["jobId"]
    await served.succeed(await served.claim(), {"role": "primary", "key": "jobs/x/1/image.webp"} | OUTPUT)
    (shown,) = (await served.client.get(JOBS)).json()["jobs"]
    read = (await served.client.get(JOBS, params={"jobId": job_id})).json()
    assert {**shown, "outputs": [], "downloadableOutputUrls": []} == {
        **read,
        "outputs": [],
        "downloadableOutputUrls": [],
    }
    assert shown["outputs"][0]["sha256"] == OUTPUT["sha256"]


async def test_filters_by_status_and_task(served: Served) -> None:
    done, waiting = (await served.submit())["jobId"], (await served.submit())["jobId"]
    await served.succeed(await served.claim())
    assert await listed(served, status="succeeded") == ([done], None)
    assert await listed(served, status="queued", task="image.generate") == ([waiting], None)
    assert await listed(served, status="failed") == ([], None)


async def test_the_place_in_line_is_shown(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (await served.submit())["jobId"], (await served.submit())["jobId"]
    monkeypatch.setattr(snapshot, "FRESH_SECONDS", 0.0)
    positions = {job["jobId"]: job["queuePosition"] for job in (await served.client.get(JOBS)).json()["jobs"]}
    assert positions == {first: 1, second: 2}


async def test_another_accounts_jobs_are_not_listed(served: Served) -> None:
    await served.submit()
    async with await served.another() as other:
        assert (await other.get(JOBS)).json() == {"jobs": [], "nextCursor": None}


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"status": "done"}, "status"),
        ({"task": "image.generat"}, "task"),
        ({"cursor": "a.b"}, "cursor"),
        ({"includeDetails": "1"}, "includeDetails"),
        ({"jobId": "job_01jd3x8v5kf4k9s2t6w7y8z9ab", "limit": "3"}, "limit"),
        ({"jobId": "job_01jd3x8v5kf4k9s2t6w7y8z9ab", "status": "queued"}, "status"),
        ({"jobid": "job_01jd3x8v5kf4k9s2t6w7y8z9ab"}, "jobid"),
    ],
)
async def test_a_bad_question_is_422_with_its_field(served: Served, asked: dict[str, str], path: str) -> None:
    answer = await served.client.get(JOBS, params=asked)
    assert answer.status_code == 422, answer.text
    assert [field["path"] for field in answer.json()["details"]["fields"]] == [path]


async def test_a_tampered_cursor_is_refused(served: Served) -> None:
    for _ in range(2):
        await served.submit()
    _, cursor = await listed(served, limit=1)
    assert cursor is not None
    for changed in (cursor[:20] + ("A" if cursor[20] != "A" else "B") + cursor[21:], cursor[:-8], cursor[30:]):
        answer = await served.client.get(JOBS, params={"cursor": changed})
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid_input")
