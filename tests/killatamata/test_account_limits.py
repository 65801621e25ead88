"""`account limits`, as `main` runs it, and what callers and submits see of it."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from api.app import application
from api.services import Services
from core.database import Database
from core.errors import QueueFull
from core.ids import decode, encode, uuid7
from core.settings import Settings
from tests.jobs.world import World
from tests.killatamata.conftest import Run

KEY = "s" * 32
NOBODY = encode("acct", uuid7())


@pytest.fixture
def run(commands: Run, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on a fresh database."""
    monkeypatch.setenv("KILLATAMATA_DATABASE_URL", database_url)
    monkeypatch.setenv("KILLATAMATA_SECRET_KEY", KEY)
    return commands


def told(url: str, folder: Path, secret: str) -> tuple[int, int]:
    """What GET /limits says to a caller: concurrency and queue limit."""

    async def ask() -> Any:
        settings = Settings(
            data_dir=folder, DATABASE_URL=url, secret_key=KEY, public_url="http://127.0.0.1", metrics_token=None
        )
        services = Services.of(settings)
        await services.database.open()
        try:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(application(services), client=("127.0.0.1", 1)),
                base_url="http://127.0.0.1",
                headers={"Authorization": f"Bearer {secret}"},
            ) as client:
                answer = await client.get("/api/v1/limits")
                assert answer.status_code == 200, answer.text
                return answer.json()
        finally:
            await services.database.close()

    with capture_logs():
        limits = asyncio.run(ask())
    return limits["concurrency"], limits["queueLimit"]


def test_the_limits_that_an_operator_sets_are_those_that_callers_read(
    run: Run, database_url: str, tmp_path: Path
) -> None:
    account, other = run("account", "create", "Ada")[1], run("account", "create", "Bob")[1]
    secret, foreign = run("key", "create", account)[1], run("key", "create", other)[1]
    assert run("account", "limits", account) == (0, "concurrency 20; queue limit 10000", "")
    assert run("account", "limits", account, "--concurrency", "3", "--queue-limit", "7", "--reason", "asked") == (
        0,
        "concurrency 3; queue limit 7",
        "",
    )
    assert told(database_url, tmp_path, secret) == (3, 7)
    assert run("account", "limits", account, "--queue-limit", "8")[1] == "concurrency 3; queue limit 8"
    assert run("account", "limits", account, "--concurrency", "4")[1] == "concurrency 4; queue limit 8"
    assert told(database_url, tmp_path, secret) == (4, 8)
    assert told(database_url, tmp_path, foreign) == (20, 10_000), "nobody else's"
    rows = json.loads(run("audit", "--target", account, "--json")[1])["audit"]
    assert [(row["action"], row["target"], row["reason"], row["before"], row["after"]) for row in rows] == [
        ("account.limits", account, None, limits(3, 8), limits(4, 8)),
        ("account.limits", account, None, limits(3, 7), limits(3, 8)),
        ("account.limits", account, "asked", limits(20, 10_000), limits(3, 7)),
    ]
    assert {row["actor"].split("@")[0] for row in rows} == {pwd.getpwuid(os.getuid()).pw_name}


def limits(concurrency: int, queue_limit: int) -> dict[str, int]:
    return {"concurrency": concurrency, "queueLimit": queue_limit}


@pytest.mark.parametrize("option", ["concurrency", "queue-limit"])
@pytest.mark.parametrize("value", ["0", "-1", "1000000001", "many", "nan", ""])
def test_a_limit_that_is_none_is_refused_and_changes_nothing(run: Run, option: str, value: str) -> None:
    account = run("account", "create", "Ada")[1]
    good = "queue-limit" if option == "concurrency" else "concurrency"
    code, out, err = run("account", "limits", account, f"--{good}=5", f"--{option}={value}")
    assert code != 0
    assert out == "" or "concurrency 5" not in out
    assert option.replace("-", " ") in err.replace("-", " ")
    assert run("account", "limits", account)[1] == "concurrency 20; queue limit 10000"
    assert json.loads(run("audit", "--json")[1]) == {"audit": []}


@pytest.mark.parametrize(
    ("account", "said"), [(NOBODY, f"there is no account {NOBODY}"), ("acct_nonsense", "is no account id")]
)
def test_limits_of_nobody_are_refused(run: Run, account: str, said: str) -> None:
    code, out, err = run("account", "limits", account, "--concurrency", "5")
    assert (code, out, said in err) == (1, "", True)
    assert json.loads(run("audit", "--json")[1]) == {"audit": []}


def test_a_submit_beyond_the_new_limit_is_refused_and_waiting_jobs_follow_a_higher_concurrency(
    run: Run, database_url: str
) -> None:
    account = run("account", "create", "Ada", "--credit", "100")[1]
    owner = decode("acct", account)
    assert owner is not None

    async def at_work(submits: int) -> tuple[int, list[str]]:
        database = Database(database_url, size=4)
        await database.open()
        try:
            world = World(database)
            await world.open()
            taken = 0
            for _ in range(submits):
                try:
                    await world.submit(owner)
                except QueueFull:
                    break
                taken += 1
            await world.leases.sweep(most_running=20)
            rows = await database.fetch("SELECT state FROM queue ORDER BY job_id")
            return taken, [row["state"] for row in rows]
        finally:
            await database.close()

    run("account", "limits", account, "--concurrency", "1", "--queue-limit", "3")
    assert asyncio.run(at_work(5)) == (3, ["ready", "parked", "parked"])
    run("account", "limits", account, "--concurrency", "2", "--queue-limit", "1")
    assert asyncio.run(at_work(1)) == (0, ["ready", "ready", "parked"])
