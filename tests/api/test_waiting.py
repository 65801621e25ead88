"""`Prefer: wait`: the finished job instead of an acceptance, for callers who stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from api import waiting
from core.errors import InvalidInput
from jobs.leases import Leases, Outcome
from jobs.models import Failure
from tests.leasing import until_true
from tests.serving import FOX, POOL, Served, serving
from tests.tcp import over_tcp

JOBS = "/api/v1/media/jobs"


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(database_url, tmp_path) as made:
        yield made


def preferring(*values: str) -> Headers:
    return Headers(raw=[(b"prefer", value.encode("latin-1")) for value in values])


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([], None),
        ([""], None),
        (["respond-async"], None),
        (["wait=10"], 10),
        (["WAIT = 10"], 10),
        (['wait="10"'], 10),
        (["wait=0"], 0),
        (["wait=60"], 60),
        (["respond-async, wait=7; x=y"], 7),
        (["return=minimal", "wait=7"], 7),
        (["wait=7", "wait=8"], 7),
        (['foo="a, wait=9", wait=7'], 7),
        (["waiting=9, x-wait=9, handling=lenient"], None),
        (['"' * 60_000], None),
        ([',"\\' * 20_000], None),
    ],
)
def test_what_is_preferred(values: list[str], seconds: int | None) -> None:
    assert waiting.wished(preferring(*values), 60) == seconds


@pytest.mark.parametrize(
    "value", ["wait", "wait=", "wait=61", "wait=-1", "wait=1.5", "wait=x", "wait=9999999999", "wait=²", "wait=1e1"]
)
def test_a_wait_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        waiting.wished(preferring(value), 60)
    (field,) = caught.value.fields
    assert (field.path, field.allowed) == ("Prefer", "wait=0 to wait=60")


async def submit(served: Served, prefer: str, **headers: str) -> httpx.Response:
    return await served.client.post(JOBS, json=FOX, headers={"Prefer": prefer, **headers})


async def first_lease(served: Served) -> Any:
    """The job's lease, once it was submitted and somebody waits for it."""
    await until_true(served.services.hub.count, "a wait")
    return await served.claim()


async def test_a_job_that_ends_in_time_is_the_answer(served: Served) -> None:
    waited = asyncio.create_task(submit(served, "wait=30"))
    lease = await first_lease(served)
    await served.succeed(lease, {"role": "primary", "key": "jobs/x/1/image.webp", "mimeType": "image/webp",
                                 "bytes": 3, "sha256": "0" * 64})  # fmt: skip
    answer = await waited
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=30")
    assert "location" not in answer.headers
    job = answer.json()
    assert (job["status"], job["billing"]["state"], len(job["downloadableOutputUrls"])) == ("succeeded", "captured", 1)
    read = (await served.client.get(JOBS, params={"jobId": job["jobId"]})).json()
    urls = {"outputs": 0, "downloadableOutputUrls": 0}
    assert {**job, **urls} == {**read, **urls}
    assert served.services.hub.count() == 0


async def test_a_failure_is_an_answer_too(served: Served) -> None:
    waited = asyncio.create_task(submit(served, "wait=30"))
    lease = await first_lease(served)
    failure = Failure("fetch_failed", "The URL did not answer.", retryable=False)
    await Leases(served.services.database).settle(lease, "failed", Outcome(), failure)
    answer = await waited
    assert (answer.status_code, answer.json()["error"]) == (200, "fetch_failed")


async def test_a_job_that_takes_longer_is_accepted_as_without(served: Served) -> None:
    for prefer in ("wait=0", "wait=1"):
        answer = await submit(served, prefer)
        assert answer.status_code == 202
        assert "preference-applied" not in answer.headers
        assert answer.headers["location"] == answer.json()["statusUrl"]
        assert answer.json()["status"] == "queued"
    assert served.services.hub.count() == 0


async def test_a_wait_out_of_range_costs_nothing(served: Served) -> None:
    answer = await submit(served, "wait=61")
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_input")
    assert (await served.client.get(JOBS)).json()["jobs"] == []


async def test_the_longest_wait_is_the_operators(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, prefer_wait_seconds=5) as served:
        answer = await submit(served, "wait=6")
        assert answer.json()["details"]["fields"][0]["allowed"] == "wait=0 to wait=5"


async def test_a_replay_waits_too(served: Served) -> None:
    key = {"X-Idempotency-Key": "k"}
    assert (await submit(served, "wait=0", **key)).status_code == 202
    waited = asyncio.create_task(submit(served, "wait=30", **key))
    lease = await first_lease(served)
    await served.succeed(lease)
    answer, later = await waited, await submit(served, "wait=0", **key)
    for each in (answer, later):
        assert (each.status_code, each.headers["idempotency-replayed"]) == (200, "true")
        assert each.json()["status"] == "succeeded"
    assert later.headers["preference-applied"] == "wait=0"
    assert (await submit(served, "respond-async", **key)).status_code == 202
    assert answer.json()["jobId"] == later.json()["jobId"]


async def test_waits_hold_no_connection(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, database_pool_size=1) as served:
        waiting_ones = [asyncio.create_task(submit(served, "wait=30")) for _ in range(10)]
        await until_true(lambda: served.services.hub.count() == 10, "ten waits")
        assert (await served.client.get("/api/v1/balance")).status_code == 200
        done = 0
        while done < 10:
            for lease in await Leases(served.services.database).claim(POOL, 5, served.session):
                await served.succeed(lease)
                done += 1
        assert {answer.status_code for answer in await asyncio.gather(*waiting_ones)} == {200}


async def test_a_caller_that_vanishes_ends_its_wait_and_not_its_job(served: Served) -> None:
    async with (
        over_tcp(served.app) as tcp,
        httpx.AsyncClient(base_url=tcp.url, headers=served.client.headers) as client,
    ):
        vanishing = asyncio.create_task(client.post(JOBS, json=FOX, headers={"Prefer": "wait=60"}))
        await until_true(served.services.hub.count, "a wait")
        vanishing.cancel()
        await asyncio.wait({vanishing})
        await until_true(lambda: not served.services.hub.count() and not tcp.requests, "the wait is gone", 5)
        (job,) = (await served.client.get(JOBS)).json()["jobs"]
        assert job["status"] == "queued"


async def test_a_server_that_stops_accepts_what_it_cannot_wait_for(served: Served) -> None:
    waited = asyncio.create_task(submit(served, "wait=60"))
    await until_true(served.services.hub.count, "a wait")
    served.services.hub.close()
    answer = await waited
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers
