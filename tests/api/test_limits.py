from __future__ import annotations

from pathlib import Path

from tests.serving import serving

LIMITS = "/api/v1/limits"


async def test_a_key_reads_its_limits_and_what_is_left(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        for _ in range(2):
            await served.submit()
        await served.claim()
        answer = await served.client.get(LIMITS)
        assert answer.status_code == 200
        assert answer.json() == {
            "writesPerMinute": 120,
            "readsPerMinute": 1200,
            "requestsPerMinuteWithoutKey": 30,
            "concurrency": 20,
            "queueLimit": 10_000,
            "eventStreamsPerKey": 10,
            "runningCancelsPerDay": 20,
            "maxBodyBytes": 64_000_000,
            "now": {
                "writesRemaining": 118,
                "readsRemaining": 1199,
                "runningJobs": 1,
                "unfinishedJobs": 2,
                "runningCancels": 0,
                "submitsPausedUntil": None,
            },
        }


async def test_an_account_of_its_own_has_limits_of_its_own(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        await served.services.database.execute(
            "UPDATE account SET concurrency = 3, queue_limit = 4, paused_until = clock_timestamp() + interval '10 min'"
            " WHERE id = $1",
            served.account,
        )
        limits = (await served.client.get(LIMITS)).json()
        assert (limits["concurrency"], limits["queueLimit"]) == (3, 4)
        assert limits["now"]["submitsPausedUntil"].endswith("Z")
        async with await served.another() as other:
            limits = (await other.get(LIMITS)).json()
            assert (limits["concurrency"], limits["now"]["submitsPausedUntil"]) == (20, None)


async def test_a_pause_that_is_over_is_none(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        await served.services.database.execute("UPDATE account SET paused_until = clock_timestamp()")
        assert (await served.client.get(LIMITS)).json()["now"]["submitsPausedUntil"] is None


async def test_a_cancel_of_a_running_job_is_counted(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        job = await served.submit()
        await served.claim()
        await served.client.delete("/api/v1/media/jobs", params={"jobId": job["jobId"]})
        assert (await served.client.get(LIMITS)).json()["now"]["runningCancels"] == 1


async def test_no_limit_is_null(database_url: str, tmp_path: Path) -> None:
    none = {"writes_per_minute": 0, "reads_per_minute": 0, "requests_per_minute_without_key": 0}
    async with serving(database_url, tmp_path, **none) as served:
        limits = (await served.client.get(LIMITS)).json()
        names = ("writesPerMinute", "readsPerMinute", "requestsPerMinuteWithoutKey")
        assert [limits[name] for name in names] == [None] * 3
        assert (limits["now"]["writesRemaining"], limits["now"]["readsRemaining"]) == (None, None)


async def test_the_last_write_of_a_minute_is_announced(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, writes_per_minute=2) as served:
        await served.submit()
        await served.submit()
        refused = await served.client.post("/api/v1/media/jobs", json={})
        assert (refused.status_code, refused.json()["error"]) == (429, "rate_limited")
        assert (await served.client.get(LIMITS)).json()["now"]["writesRemaining"] == 0
