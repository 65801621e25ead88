"""The operator's commands on jobs and pools, as `main` runs them, over a real database."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.database import Database
from core.ids import encode, uuid7
from tests.jobs.world import FAILURE, World
from tests.killatamata.conftest import Run

NOBODY = encode("job", uuid7())


@pytest.fixture
def run(commands: Run, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on a fresh database."""
    monkeypatch.setenv("KILLATAMATA_DATABASE_URL", database_url)
    monkeypatch.setenv("KILLATAMATA_SECRET_KEY", "s" * 32)
    return commands


def in_world(database_url: str, work: Callable[[World], Awaitable[Any]]) -> Any:
    """What `work` does in a world over that database."""

    async def go() -> Any:
        database = Database(database_url, size=4)
        await database.open()
        world = World(database)
        await world.restart_grace("0")
        await world.open()
        try:
            return await work(world)
        finally:
            await database.close()

    return asyncio.run(go())


async def one_running(world: World) -> str:
    job = await world.submit(await world.account())
    await world.claim_one()
    return encode("job", job.id)


async def one_poisoned(world: World) -> str:
    job = await world.submit(await world.account())
    for _ in range(3):
        await world.leases.hand_back(await world.claim_one(), "replica_died", counts=True, failure=FAILURE)
    return encode("job", job.id)


def test_a_running_job_is_held_back_released_requeued_and_all_of_it_audited(run: Run, database_url: str) -> None:
    job = in_world(database_url, one_running)
    assert run("jobs", "quarantine", job, "--reason", "too loud") == (
        0,
        f"{job} is queued, quarantined in pool gpu; its price is held",
        "",
    )
    code, out, _ = run("jobs", "stuck", "--json")
    (held,) = json.loads(out)["jobs"]
    assert (code, held["jobId"], held["why"], held["state"]) == (0, job, "quarantined", "queued")
    assert held["about"].endswith(": too loud")
    assert [each["outcome"] for each in held["evidence"]] == ["handed_back"]
    assert run("jobs", "quarantine", job)[0] == 1
    assert run("jobs", "release", job)[1] == f"{job} is queued, ready in pool gpu; its price is held"
    code, out, _ = run("jobs", "requeue", job, "--json")
    assert (code, json.loads(out)["queue"]) == (0, "ready")
    rows = json.loads(run("audit", "--target", job, "--json")[1])["audit"]
    assert [row["action"] for row in rows] == ["job.requeue", "job.release", "job.quarantine"]
    assert {row["actor"].split("@")[0] for row in rows} == {pwd.getpwuid(os.getuid()).pw_name}
    assert (rows[2]["reason"], rows[2]["before"]["state"]) == ("too loud", "running")
    assert "job.quarantine" in run("audit")[1]


def test_the_actor_is_who_the_system_says_whatever_the_environment_does(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_world(database_url, one_running)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "mallory")
    assert run("pool", "pause", "cpu")[0] == 0
    assert "mallory" not in run("audit", "--json")[1]


def test_poison_is_shown_with_its_evidence_and_cannot_run_again(run: Run, database_url: str) -> None:
    job = in_world(database_url, one_poisoned)
    code, out, _ = run("jobs", "stuck", "--quarantined")
    assert code == 0
    assert job in out
    assert out.count("replica_died") >= 3
    for action in ("requeue", "quarantine"):
        code, out, err = run("jobs", action, job)
        assert (code, out) == (1, "")
        assert f"{job} has ended (failed) and its money is settled" in err
    assert run("jobs", "release", job) == (0, f"{job} is failed; its price is released", "")
    assert json.loads(run("jobs", "stuck", "--json")[1]) == {"jobs": []}
    assert run("ledger", "check") == (0, "no drift", "")


@pytest.mark.parametrize("action", ["requeue", "quarantine", "release"])
@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("nonsense", "is no job id"),
        (encode("acct", uuid7()), "is no job id"),
        ("", "is no job id"),
        (NOBODY, "there is no job"),
    ],
)
def test_what_is_no_job_is_said_to_be_none(run: Run, action: str, job: str, said: str) -> None:
    code, out, err = run("jobs", action, job)
    assert (code, out) == (1, "")
    assert said in err


def test_words_that_make_no_sense_change_nothing(run: Run, database_url: str) -> None:
    job = in_world(database_url, one_running)
    for words, said in (
        (("jobs", "stuck", "--limit", "0"), "--limit is 1 to 10000"),
        (("audit", "--limit", "10001"), "--limit is 1 to 10000"),
        (("jobs", "requeue", job, "--reason", "x" * 501), "a reason has at most 500 characters"),
        (("pool", "drain", "gpu", "--grace=-1"), "--grace is 0 to 86400"),
        (("pool", "drain", "gpu", "--grace", "nan"), "--grace is 0 to 86400"),
        (("pool", "pause", "gpus"), "there is no pool 'gpus'; there are cpu, gpu"),
        (("pool", "pause", ""), "there is no pool ''"),
    ):
        code, out, err = run(*words)
        assert (code, out, said in err) == (1, "", True), (words, err)
    assert json.loads(run("audit", "--json")[1]) == {"audit": []}


def test_a_pool_is_paused_drained_and_resumed(run: Run, database_url: str) -> None:
    in_world(database_url, one_running)
    assert run("pool", "pause", "gpu") == (0, "gpu is paused; 1 jobs run", "")
    pools = {row["name"]: row for row in json.loads(run("pool", "list", "--json")[1])["pools"]}
    assert (pools["gpu"]["state"], pools["gpu"]["leased"], pools["cpu"]["state"]) == ("paused", 1, "open")
    assert run("pool", "drain", "gpu", "--grace", "0") == (0, "gpu is paused; no jobs run", "")
    pools = {row["name"]: row for row in json.loads(run("pool", "list", "--json")[1])["pools"]}
    assert (pools["gpu"]["state"], pools["gpu"]["leased"], pools["gpu"]["ready"]) == ("draining", 0, 1)
    assert run("pool", "resume", "gpu") == (0, "gpu is open; no jobs run", "")
    code, out, _ = run("pool", "list")
    assert code == 0
    assert "maxQueueSeconds" in out
    actions = [row["action"] for row in json.loads(run("audit", "--json")[1])["audit"]]
    assert actions == ["pool.resume", "job.hand_back", "pool.drain", "pool.pause"]


def test_a_hold_that_lost_its_job_fails_the_ledgers_check(run: Run, database_url: str) -> None:
    async def planted(world: World) -> None:
        for _ in range(2):
            await world.submit(await world.account())
        await world.database.execute(
            "UPDATE job SET state = 'cancelled', finished_at = now() WHERE id = (SELECT id FROM job ORDER BY id LIMIT 1)"
        )
        await world.database.execute("DELETE FROM queue")

    in_world(database_url, planted)
    code, out, err = run("ledger", "check")
    assert code == 1
    assert "a hold's job has ended" in out
    assert "lacks its hold or its place in the queue" in out
    assert "2 wallets disagree" in err
