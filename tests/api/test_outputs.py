"""The early end of outputs, over a real database and store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.clock import now, rfc3339
from core.ids import encode, uuid7
from tests.serving import Served, serving

OUTPUTS, JOBS = "/api/v1/media/outputs", "/api/v1/media/jobs"


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(database_url, tmp_path) as made:
        yield made


async def finished(served: Served) -> dict[str, Any]:
    """A job with one picture, as its owner reads it."""
    job = await served.submit()
    lease = await served.claim()
    key = f"jobs/{lease.job_id}/{lease.fence}/image.webp"
    artifact = served.services.store.put(key, b"picture", "image/webp")
    await served.succeed(
        lease, {"role": "primary", "key": key, "mimeType": "image/webp", "bytes": 7, "sha256": artifact.sha256}
    )
    found: dict[str, Any] = (await served.client.get(JOBS, params={"jobId": job["jobId"]})).json()
    return found


async def test_outputs_are_deleted_at_once_and_for_good(served: Served) -> None:
    job = await finished(served)
    (url,) = job["downloadableOutputUrls"]
    assert (await served.client.get(url)).content == b"picture"
    for _ in range(2):
        answer = await served.client.delete(OUTPUTS, params={"jobId": job["jobId"]})
        assert answer.status_code == 200, answer.text
        after = answer.json()
        assert after["downloadableOutputUrls"] == []
        (output,) = after["outputs"]
        assert (output["url"], output["expiresAt"], output["sha256"]) == (None, None, job["outputs"][0]["sha256"])
        assert output["deleteAt"] <= rfc3339(now() + timedelta(seconds=1)) < job["outputs"][0]["deleteAt"]
        assert {**after, "outputs": [], "downloadableOutputUrls": []} == {
            **job,
            "outputs": [],
            "downloadableOutputUrls": [],
        }
    gone = await served.client.get(url)
    assert (gone.status_code, gone.json()["error"]) == (410, "output_expired")
    assert (await served.client.get(JOBS, params={"jobId": job["jobId"]})).json() == after


async def test_a_live_job_keeps_what_it_will_make(served: Served) -> None:
    job = await served.submit()
    queued = await served.client.delete(OUTPUTS, params={"jobId": job["jobId"]})
    await served.claim()
    running = await served.client.delete(OUTPUTS, params={"jobId": job["jobId"]})
    for answer in (queued, running):
        assert (answer.status_code, answer.json()["error"]) == (409, "wrong_state")


async def test_outputs_of_nobody_or_of_somebody_else_are_not_there(served: Served) -> None:
    job = await finished(served)
    async with await served.another() as other:
        theirs = await other.delete(OUTPUTS, params={"jobId": job["jobId"]})
    for text in (encode("job", uuid7()), "job_x", ""):
        nobodys = await served.client.delete(OUTPUTS, params={"jobId": text})
        assert (theirs.status_code, theirs.json()["error"]) == (nobodys.status_code, nobodys.json()["error"])
        assert nobodys.status_code == 404
    assert (await served.client.get(job["downloadableOutputUrls"][0])).status_code == 200
    assert (await served.client.delete(OUTPUTS)).status_code == 422
