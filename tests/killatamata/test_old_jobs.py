"""Records of jobs end after `JOB_DAYS`, and the money that they moved stays told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from billing import wallets
from core.clock import now
from core.ids import decode, uuid7
from jobs import store
from killatamata.sweeps import SWEEPS
from tests.serving import Served, serving

BASE = "/api/v1"
(OLD_JOBS,) = (sweep for sweep in SWEEPS if sweep.name == "old-jobs")


async def ended(served: Served, patch: pytest.MonkeyPatch, days: float, *, well: bool) -> str:
    """The id of a job that succeeded, or was cancelled, so many days ago."""
    then = now() - timedelta(days=days)
    old = UUID(int=uuid7().int & (1 << 80) - 1 | int(then.timestamp() * 1000) << 80)
    with patch.context() as patched:
        patched.setattr(store, "uuid7", lambda: old)
        job: str = (await served.submit())["jobId"]
    assert decode("job", job) == old
    if well:
        await served.succeed(await served.claim())
    else:
        assert (await served.client.delete(f"{BASE}/media/jobs", params={"jobId": job})).status_code == 200
    await served.services.database.execute("UPDATE job SET finished_at = $2 WHERE id = $1", old, then)
    return job


async def entries(served: Served) -> Any:
    answer = await served.client.get(f"{BASE}/billing/entries", params={"limit": 100})
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize("well", [True, False], ids=["succeeded", "cancelled"])
async def test_a_job_is_on_record_for_400_days_and_its_money_for_ever(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, well: bool
) -> None:
    async with serving(database_url, tmp_path) as served:
        database = served.services.database
        younger = await ended(served, monkeypatch, 399, well=well)
        older = await ended(served, monkeypatch, 401, well=well)
        live = (await served.submit())["jobId"]
        before, balance = await entries(served), await wallets.balance(database, served.account)
        assert len(before["entries"]) >= 9
        await OLD_JOBS.run(served.services)
        for path in ("media/jobs", "media/jobs/receipt"):
            told = {
                job: (await served.client.get(f"{BASE}/{path}", params={"jobId": job})).status_code
                for job in (younger, older, live)
            }
            assert told == {younger: 200, older: 404, live: 200}, path
        listed = (await served.client.get(f"{BASE}/media/jobs")).json()["jobs"]
        assert [job["jobId"] for job in listed] == [live, younger]
        assert await entries(served) == before
        assert await wallets.balance(database, served.account) == balance
        assert await wallets.broken_chains(database) == {}
        assert await wallets.drift(database) == []
        assert await database.fetch_value("SELECT count(*) FROM hold") == 3


async def test_an_operator_may_keep_jobs_shorter(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url, tmp_path, job_days=30) as served:
        job = await ended(served, monkeypatch, 31, well=True)
        await OLD_JOBS.run(served.services)
        assert (await served.client.get(f"{BASE}/media/jobs", params={"jobId": job})).status_code == 404
