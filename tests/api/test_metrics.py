from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from api import metrics
from api.app import application
from api.metrics import DatabaseMetrics
from api.server import listen
from api.services import Services
from billing import checks
from core.metrics import REGISTRY
from core.settings import Settings
from tests.api.doubles import DatabaseDouble
from tests.serving import POOL, Served, serving

TOKEN = "operator-token-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LOCAL = "http://127.0.0.1:8000"


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name, without the prefix, and the values of its labels in their order."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found[sample.name.removeprefix("killatamata_"), labels] = sample.value
    return found


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, services: Services) -> Services:
    """Services whose database answers nothing, so that every source is content with it."""
    monkeypatch.setattr(metrics, "SOURCES", ())
    return with_settings(services, public_url=None, port=8000)


def with_settings(services: Services, **changes: Any) -> Services:
    return replace(services, settings=Settings(**(services.settings.model_dump() | changes)))


def ask(services: Services, peer: str = "127.0.0.1", url: str = LOCAL, method: str = "GET", **headers: str) -> Any:
    with TestClient(application(services), url, client=(peer, 1)) as client:
        return client.request(
            method, "/metrics", headers={name.replace("_", "-"): text for name, text in headers.items()}
        )


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1"])
@pytest.mark.parametrize("url", [LOCAL, "http://localhost:8000", "http://[::1]:8000", "http://127.0.0.1"])
def test_this_machine_may_scrape(there: Services, peer: str, url: str) -> None:
    answer = ask(there, peer, url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "ratelimit" not in answer.headers


@pytest.mark.parametrize(
    ("peer", "url", "headers"),
    [
        ("203.0.113.7", LOCAL, {}),
        ("10.0.0.1", LOCAL, {}),
        ("testclient", LOCAL, {}),
        ("127.0.0.1", LOCAL, {"X_Forwarded_For": "203.0.113.7"}),
        ("127.0.0.1", LOCAL, {"X_Forwarded_For": "127.0.0.1"}),
        ("127.0.0.1", LOCAL, {"Forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", LOCAL, {"X_Real_IP": "127.0.0.1"}),
        ("127.0.0.1", LOCAL, {"Via": "1.1 proxy"}),
        ("127.0.0.1", LOCAL, {"Origin": "https://page.example"}),
        ("127.0.0.1", "https://api.example.test", {}),
        ("127.0.0.1", LOCAL, {"Host": "rebound.example:8000"}),
        ("127.0.0.1", LOCAL, {"Host": "[::1"}),
        ("127.0.0.1", LOCAL, {"Host": ""}),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_for_everybody_else_there_is_nothing(
    there: Services, peer: str, url: str, headers: dict[str, str], method: str
) -> None:
    answer = ask(there, peer, url, method, **headers)
    assert answer.status_code == 404
    with TestClient(application(there), url, client=(peer, 1)) as client:
        same = client.request(
            method, "/nowhere", headers={name.replace("_", "-"): each for name, each in headers.items()}
        )
    assert answer.content == same.content
    assert {*answer.headers} == {*same.headers}


@pytest.mark.parametrize(
    ("public_url", "open_to_here"),
    [
        ("http://localhost:8000", True),
        ("http://127.0.0.1:8000/", True),
        ("http://[::1]:8000", True),
        ("https://api.example.test", False),
        ("http://10.0.0.7:8000", False),
        ("api.example.test", False),
    ],
)
def test_with_a_public_url_the_token_is_demanded(there: Services, public_url: str, open_to_here: bool) -> None:
    services = with_settings(there, public_url=public_url)
    assert ask(services).status_code == (200 if open_to_here else 404)
    assert ask(with_settings(services, metrics_token=TOKEN), **BEARER).status_code == 200


def test_with_a_token_only_the_token_opens(there: Services) -> None:
    services = with_settings(there, metrics_token=TOKEN)
    assert ask(services).status_code == 404
    assert ask(services, "203.0.113.7", "https://api.example.test", **BEARER).status_code == 200
    assert ask(services, "127.0.0.1", X_Forwarded_For="203.0.113.7", **BEARER).status_code == 200
    for wrong in (
        f"Bearer {TOKEN}x",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"bearer{TOKEN}",
    ):
        assert ask(services, "203.0.113.7", Authorization=wrong).status_code == 404
    with TestClient(application(services), LOCAL, client=("127.0.0.1", 1)) as client:
        assert client.get("/metrics", headers=[(b"Authorization", b"Bearer \xa9")]).status_code == 404


def test_a_trusted_proxy_is_no_way_in(there: Services) -> None:
    answer = ask(with_settings(there, trusted_proxies="10.1.0.0/16"), "10.1.2.3", X_Forwarded_For="127.0.0.1")
    assert answer.status_code == 404


def test_operators_know_it_and_the_public_description_does_not(there: Services) -> None:
    assert ask(there, method="POST").status_code == 405
    with TestClient(application(there), LOCAL, client=("127.0.0.1", 1)) as client:
        assert "/metrics" not in client.get("/openapi.json").json()["paths"]


def test_open_metrics_is_spoken_to_who_asks_for_it(there: Services) -> None:
    answer = ask(there, Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_every_metric_is_documented() -> None:
    source = Path(metrics.__file__).read_text()
    counted = {family.name + ("_total" if family.type == "counter" else "") for family in REGISTRY.collect()}
    read = {f"killatamata_{name}" for name in re.findall(r'_gauge\(\s*"(\w+)"', source)}
    assert read
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(killatamata_\w+)`", text, re.MULTILINE))
    assert documented == counted | read


async def scraped(served: Served) -> dict[tuple[str, tuple[str, ...]], float]:
    transport = httpx.ASGITransport(served.app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as client:
        answer = await client.get("/metrics", headers=BEARER)
    assert answer.status_code == 200
    check_conventions(answer.text)
    return samples(answer.text)


def check_conventions(text: str) -> None:
    """What `promtool check metrics` looks at, and our own rule that labels have few values."""
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith((".", "0", "code."))
        names = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert {name for name in names if not name.endswith("_created")} <= {f"{family.name}_total"}
        else:
            assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert not any(unit in family.name for unit in ("milli", "minute", "hour", "kilo", "percent"))
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels <= {"method", "route", "code", "le", "policy", "task", "outcome", "pool", "state", "scope"}


async def test_what_the_ledger_checks_found_is_told(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, metrics_token=TOKEN) as served:
        await checks.check_all(served.services.database)
        await checks.keep(served.services.database, "holds", 3, [served.account])
        found = await scraped(served)
        assert (found["ledger_check_wrong", ("all",)], found["ledger_check_wrong", ("holds",)]) == (0, 1)
        assert found["ledger_check_timestamp_seconds", ("all",)] > 1.7e9


async def test_the_database_says_what_waits_runs_and_is_held(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, metrics_token=TOKEN) as served:
        jobs = [await served.submit() for _ in range(3)]
        await served.claim()
        await served.services.database.execute(
            "INSERT INTO delivery (id, job_id, account_id, type, url, created_at) SELECT id, id, account_id, 'x', 'y',"
            " clock_timestamp() - interval '90 s' FROM job ORDER BY id LIMIT 1"
        )
        found = await scraped(served)
        assert found["database_up", ()] == 1
        assert found["pool_slots", (POOL,)] == 4
        assert found["pool_paused", (POOL,)] == 0
        assert (found["queue_jobs", (POOL, "ready")], found["queue_jobs", (POOL, "leased")]) == (2, 1)
        assert found["queue_work_seconds", (POOL, "ready")] > 0
        assert 0 <= found["queue_oldest_age_seconds", (POOL,)] < 60
        assert found["jobs_running", ("image.generate",)] == 1
        price = jobs[0]["billing"]["amountMicros"]
        assert (found["holds_open", ()], found["holds_open_micros", ()]) == (3, 3 * price)
        assert found["holds_of_ended_jobs", ()] == 0
        assert found["deliveries_pending", ()] == 1
        assert 90 <= found["deliveries_oldest_age_seconds", ()] < 200


async def test_a_hold_whose_job_has_ended_is_seen(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, metrics_token=TOKEN) as served:
        for _ in range(2):
            await served.submit()
        lease = await served.claim()
        await served.succeed(lease)
        database = served.services.database
        await database.execute("UPDATE hold SET state = 'held', ended_at = NULL")
        found = await scraped(served)
        assert (found["holds_open", ()], found["holds_of_ended_jobs", ()]) == (2, 1)


async def test_quarantine_is_told_apart_and_waits_no_longer(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, metrics_token=TOKEN) as served:
        database = served.services.database
        await served.submit()
        await served.claim()
        await database.execute("UPDATE job SET attempts = 2")
        await database.execute("SELECT hand_back(id, fence, 'replica_died', true) FROM job")
        await served.submit()
        await database.execute("UPDATE job SET created_at = created_at - interval '1 h'")
        await database.execute("SELECT job_quarantine(job_id, 'ada@ops', NULL) FROM queue")
        found = await scraped(served)
        assert (found["jobs_quarantined", ("held",)], found["jobs_quarantined", ("poisoned",)]) == (1, 1)
        assert found["queue_jobs", (POOL, "quarantined")] == 1
        assert found["queue_oldest_age_seconds", (POOL,)] == 0


async def test_a_job_that_was_handed_back_is_not_the_oldest_waiting(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, metrics_token=TOKEN) as served:
        await served.submit()
        await served.claim()
        await served.services.database.execute("UPDATE job SET created_at = created_at - interval '1 h'")
        await served.services.database.execute("UPDATE queue SET state = 'ready', begun = true")
        found = await scraped(served)
        assert found["queue_jobs", (POOL, "handed_back")] == 1
        assert found["queue_oldest_age_seconds", (POOL,)] == 0


async def test_submits_and_money_are_counted_by_task(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, metrics_token=TOKEN, credit=50_000) as served:
        before = await scraped(served)
        job = await served.submit(idempotencyKey="once")
        await served.submit(idempotencyKey="once")
        for body in ({"width": 256, "height": 256}, {"width": 2048, "height": 2048}):
            body_of = {"task": "image.generate", "input": {"prompt": "x", **body}}
            await served.client.post("/api/v1/media/jobs", json=body_of)
        await served.client.post("/api/v1/media/jobs", json={"task": "../../etc", "input": {}})
        after = await scraped(served)

        def grown(name: str, *labels: str) -> float:
            return after.get((name, labels), 0) - before.get((name, labels), 0)

        assert grown("job_submits_total", "accepted", "image.generate") == 2
        assert grown("job_submits_total", "replayed", "image.generate") == 1
        assert grown("job_submits_total", "insufficient_balance", "image.generate") == 1
        assert grown("job_held_micros_total", "image.generate") == job["billing"]["amountMicros"] + 10_000
        assert grown("idempotent_replays_total", "POST /media/jobs") == 1
        assert grown("http_requests_total", "202", "POST", "/api/v1/media/jobs") == 3
        assert not any("etc" in label for _, labels in after for label in labels)


async def test_the_database_is_asked_once_for_many_scrapes(database: DatabaseDouble) -> None:
    asked = []

    async def source(_: Any) -> list[Any]:
        asked.append(1)
        await asyncio.sleep(0)
        return []

    read = DatabaseMetrics(database, [source])  # type: ignore[arg-type]
    await asyncio.gather(*(read.refresh() for _ in range(20)))
    await read.refresh()
    assert len(asked) == 1


@pytest.mark.parametrize("failure", [ConnectionRefusedError(), TimeoutError(), OSError()])
def test_without_a_database_the_process_still_tells_of_itself(
    services: Services, database: DatabaseDouble, failure: Exception
) -> None:
    here = with_settings(services, public_url=None, port=8000)
    with TestClient(application(here), LOCAL, client=("127.0.0.1", 1)) as client:
        client.get("/health")
        database.failure = failure
        found = samples(client.get("/metrics").text)
    assert found["database_up", ()] == 0
    assert found["http_requests_total", ("200", "GET", "/health")] >= 1
    assert not any(name.startswith(("queue_", "pool_", "holds_")) for name, _ in found)


async def test_a_database_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, database: DatabaseDouble) -> None:
    async def source(_: Any) -> list[Any]:
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr(metrics, "PATIENCE_SECONDS", 0.01)
    read = DatabaseMetrics(database, [source])  # type: ignore[arg-type]
    await read.refresh()
    (up,) = read.collect()
    assert (up.name, up.samples[0].value) == ("killatamata_database_up", 0)


@pytest.fixture
def two_workers(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real ingress of two processes without a database, and the folder in which they add up their metrics."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    with listen("127.0.0.1", 0) as listening, listen("127.0.0.1", 0) as closed:
        environment = os.environ | {
            "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{closed.getsockname()[1]}/none",
            "KILLATAMATA_DATA_DIR": str(tmp_path),
            "KILLATAMATA_INGRESS_WORKERS": "2",
            "KILLATAMATA_SECRET_KEY": "k" * 32,
            "PROMETHEUS_MULTIPROC_DIR": str(folder),
        }
        closed.close()
        process = subprocess.Popen(
            [sys.executable, "-m", "api", "--fd", str(listening.fileno())],
            env=environment,
            pass_fds=[listening.fileno()],
            cwd=Path(__file__).parents[2],
        )
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield address, folder
    finally:
        process.terminate()
        process.wait(20)


def workers(folder: Path) -> set[str]:
    return {file.stem.rpartition("_")[2] for file in folder.glob("counter_*.db")}


def test_two_processes_answer_for_both(two_workers: tuple[str, Path]) -> None:
    address, folder = two_workers
    dead = "from core.metrics import EVENT_STREAMS, RATE_LIMITED; EVENT_STREAMS.inc(5); RATE_LIMITED.labels('reads').inc(3)"
    subprocess.run([sys.executable, "-c", dead], check=True, env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)})
    asked = 0
    served: set[str] = set()
    while asked < 40 or len(workers(folder)) < 3:
        assert asked < 4000
        assert httpx.get(f"{address}/health", trust_env=False, timeout=30).status_code == 200
        asked += 1
    served = workers(folder)
    texts = [httpx.get(f"{address}/metrics", trust_env=False, timeout=30).text for _ in range(4)]
    for text in texts:
        check_conventions(text)
        found = samples(text)
        assert found["http_requests_total", ("200", "GET", "/health")] == asked
        assert found["http_request_duration_seconds_count", ("GET", "/health")] == asked
        assert found["database_up", ()] == 0
        assert found["http_requests_in_flight", ()] == 1
        assert found["event_streams_open", ()] == 0
        assert found["rate_limited_total", ("reads",)] == 3
    assert len(served) == 3
