"""Every write honours an idempotency key, over a real database: cancels, deletions of outputs, and quotes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobs.leases import Leases, Outcome
from jobs.models import Failure
from tests.serving import FOX, Served, serving

JOBS, OUTPUTS, QUOTES = "/api/v1/media/jobs", "/api/v1/media/outputs", "/api/v1/media/quotes"
KEY = {"X-Idempotency-Key": "k"}
DRAWN = {"task": "image.generate", "input": {"prompt": "cinematic fox astronaut"}}


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(database_url, tmp_path) as made:
        yield made


async def ended(served: Served) -> dict[str, str]:
    """A job that has succeeded, as a query."""
    job = await served.submit()
    await served.succeed(await served.claim())
    return {"jobId": job["jobId"]}


async def test_a_cancel_is_answered_again_as_it_was(served: Served) -> None:
    job, other = {"jobId": (await served.submit())["jobId"]}, {"jobId": (await served.submit())["jobId"]}
    lease = await served.claim()
    first = await served.client.delete(JOBS, params=job, headers=KEY)
    assert (first.status_code, first.json()["status"], first.headers["Retry-After"]) == (200, "running", "1")
    assert "Idempotency-Replayed" not in first.headers
    assert await Leases(served.services.database).settle(lease, "cancelled", Outcome()) == "cancelled"
    again = await served.client.delete(JOBS, params=job, headers=KEY)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    assert again.json() == first.json()
    assert (await served.client.get(JOBS, params=job)).json()["status"] == "cancelled"
    conflict = await served.client.delete(JOBS, params=other, headers=KEY)
    assert (conflict.status_code, conflict.json()["error"]) == (409, "idempotency_conflict")
    assert (await served.client.get(JOBS, params=other)).json()["status"] == "queued"
    assert (await served.client.delete(JOBS, params=other)).json()["status"] == "cancelled"


async def test_a_refused_cancel_frees_the_key(served: Served) -> None:
    assert (await served.client.delete(JOBS, params={"jobId": "job_x"}, headers=KEY)).status_code == 404
    job = {"jobId": (await served.submit())["jobId"]}
    assert (await served.client.delete(JOBS, params=job, headers=KEY)).status_code == 200


async def test_a_deletion_of_outputs_is_answered_again_as_it_was(served: Served) -> None:
    job, other = await ended(served), await ended(served)
    first = await served.client.delete(OUTPUTS, params=job, headers=KEY)
    again = await served.client.delete(OUTPUTS, params=job, headers=KEY)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    assert again.json() == first.json()
    conflict = await served.client.delete(OUTPUTS, params=other, headers=KEY)
    assert (conflict.status_code, conflict.json()["error"]) == (409, "idempotency_conflict")


async def test_a_quote_keeps_its_token_and_its_seed(served: Served) -> None:
    first = await served.client.post(QUOTES, json=DRAWN, headers=KEY)
    again = await served.client.post(QUOTES, json={**DRAWN, "idempotencyKey": "k"})
    assert (first.status_code, again.status_code, again.headers["Idempotency-Replayed"]) == (200, 200, "true")
    assert again.json() == first.json()
    conflict = await served.client.post(QUOTES, json=FOX, headers=KEY)
    assert (conflict.status_code, conflict.json()["error"]) == (409, "idempotency_conflict")
    seeds = {(await served.client.post(QUOTES, json=DRAWN)).json()["effectiveInput"]["seed"] for _ in range(3)}
    assert len(seeds) == 3


async def test_a_quote_is_answered_again_whatever_prices_are_by_then(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {**DRAWN, "maxCostUsd": "0.05"}
    first = await served.client.post(QUOTES, json=asked, headers=KEY)

    async def none() -> Any:
        raise AssertionError("a replay asks for no price")

    monkeypatch.setattr(served.services.price_books, "current", none)
    assert (await served.client.post(QUOTES, json=asked, headers=KEY)).json() == first.json()


async def test_an_expired_record_gives_way_to_a_new_quote(served: Served) -> None:
    first = await served.client.post(QUOTES, json=DRAWN, headers=KEY)
    await served.services.database.execute("UPDATE idempotency SET created_at = created_at - interval '25 hours'")
    later = await served.client.post(QUOTES, json={**DRAWN, "priority": "batch"}, headers=KEY)
    assert (later.status_code, "Idempotency-Replayed" in later.headers) == (200, False)
    assert later.json()["quoteToken"] != first.json()["quoteToken"]
    again = await served.client.post(QUOTES, json={**DRAWN, "priority": "batch"}, headers=KEY)
    assert again.json() == later.json()


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled", "running"])
async def test_a_submit_is_answered_again_as_it_was(served: Served, end: Any) -> None:
    asked = {"task": "image.generate", "input": {"prompt": "a fox", "width": 1000, "height": 512}}
    first = await served.client.post(JOBS, json=asked, headers=KEY)
    lease = await served.claim()
    await served.submit()
    if end != "running":
        outcome = Outcome(adjustments=({"field": "prompt", "from": 9, "to": 8, "reason": "long", "at": "run"},))
        leases = Leases(served.services.database)
        if end == "cancelled":
            await served.services.jobs.cancel(served.account, lease.job_id)
        failure = Failure("fetch_failed", "No answer.", retryable=False) if end == "failed" else None
        assert await leases.settle(lease, end, outcome, failure) == end
    again = await served.client.post(JOBS, json=asked, headers=KEY)
    assert (first.status_code, again.status_code, again.headers["Idempotency-Replayed"]) == (202, 202, "true")
    assert again.headers["Location"] == first.headers["Location"]
    anew = {"durationEstimate": None, "eventsUrl": None}
    assert {**again.json(), **anew} == {**first.json(), **anew}
    assert [change["field"] for change in again.json()["inputAdjustments"]] == ["width"]
    waited = await served.client.post(JOBS, json=asked, headers={**KEY, "Prefer": "wait=0"})
    assert (waited.status_code, waited.json()["status"]) == ((202, "queued") if end == "running" else (200, end))
