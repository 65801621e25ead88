from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from starlette.testclient import TestClient

from api.app import OPERATIONS, application
from api.lately import Lately
from api.rate_limits import RETRY_STORE_SECONDS, RateLimits
from api.services import Services
from api.windows import MemoryWindows, Policy, RedisWindows, Standing
from core import metrics
from core.errors import RateLimited
from core.settings import Settings
from tests.api.conftest import BASE_URL
from tests.api.doubles import KEY, OTHER_KEY, DatabaseDouble
from tests.redis_server import redis_server

BALANCE, KEYS = "/api/v1/balance", "/api/v1/keys"
FEW: dict[str, Any] = {"writes_per_minute": 2, "reads_per_minute": 4, "requests_per_minute_without_key": 3}
WRONG = {"x-api-key": "kt_zzzzzzzz_" + "z" * 32}

Serve: TypeAlias = Callable[..., Any]


@pytest.fixture
def serve(services: Services) -> Serve:
    """Clients of one ingress with few requests a minute, each at an address of its own."""

    @contextmanager
    def serving(
        peer: str = "203.0.113.7", shared: Any = None, clock: Any = time.monotonic, **changes: Any
    ) -> Iterator[TestClient]:
        settings = Settings(**(services.settings.model_dump() | FEW | changes))
        served = replace(services, settings=settings, rate_limits=RateLimits(settings, shared, clock))
        with TestClient(application(served), BASE_URL, client=(peer, 1), raise_server_exceptions=False) as client:
            client.headers["x-api-key"] = KEY
            yield client

    return serving


def left(answer: Any) -> tuple[str, int]:
    policy, remaining, _ = answer.headers["ratelimit"].split(";")
    return policy.strip('"'), int(remaining.removeprefix("r="))


def test_every_limited_answer_says_where_the_key_stands(serve: Serve) -> None:
    with serve() as client:
        answer = client.get(BALANCE)
        assert answer.headers["ratelimit-policy"] == '"reads";q=4;w=60'
        assert left(answer) == ("reads", 3)
        assert left(client.get("/api/v1/media/jobs?nonsense=1")) == ("reads", 2)
        assert left(client.post(KEYS, json={})) == ("writes", 1)
        assert left(client.head(BALANCE)) == ("reads", 1)


def test_reads_and_writes_are_refused_beyond_their_quotas_and_told_when(serve: Serve) -> None:
    with serve() as client:
        assert [client.get(BALANCE).status_code for _ in range(6)] == [200] * 4 + [429] * 2
        assert [client.post(KEYS, json={"label": "x"}).status_code for _ in range(3)] == [201, 201, 429]
        refused = client.delete("/api/v1/media/jobs?jobId=x")
        wait = int(refused.headers["retry-after"])
        assert 1 <= wait <= 61
        assert refused.json()["error"] == "rate_limited"
        assert f"in {wait} seconds" in refused.json()["details"]["message"]
        assert left(refused) == ("writes", 0)
        assert refused.headers["ratelimit"].endswith(f"t={wait}")
        assert client.get(BALANCE, headers={"x-api-key": OTHER_KEY}).status_code == 200


async def test_a_refused_body_is_not_read(services: Services) -> None:
    settings = Settings(**(services.settings.model_dump() | FEW))
    app = application(replace(services, settings=settings, rate_limits=RateLimits(settings)))
    statuses = []

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"x-api-key", KEY.encode()), (b"content-type", b"application/json"), (b"content-length", b"60000")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": KEYS,
        "query_string": b"",
        "headers": headers,
        "client": ("::1", 1),
    }
    for _ in range(3):
        await app({**scope, "state": {}}, receive, send)
    assert statuses == [500, 500, 429]


def test_without_a_valid_key_the_address_is_counted_and_the_key_is_not_named(serve: Serve) -> None:
    with serve() as client:
        missing = client.get(BALANCE, headers={"x-api-key": ""})
        assert (missing.status_code, left(missing)) == (401, ("without-key", 2))
        assert client.get(BALANCE, headers=WRONG).status_code == 401
        assert client.post(KEYS, headers={"Authorization": "Basic x"}).status_code == 401
        refused = client.get(BALANCE, headers=WRONG)
        assert (refused.status_code, left(refused)) == (429, ("without-key", 0))
        assert refused.json()["error"] == "rate_limited"
        assert client.get(BALANCE, headers={"x-api-key": ""}).status_code == 429
        assert client.get(BALANCE).status_code == 200


def test_beyond_the_limit_a_wrong_key_costs_no_look_up_and_a_valid_one_passes(
    serve: Serve, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = services.keys.authenticate, list[str]()

    async def authenticate(key: str) -> Any:
        asked.append(key)
        return await real(key)

    monkeypatch.setattr(services.keys, "authenticate", authenticate)
    monkeypatch.setattr(services.refused_keys, "_seconds", 3600.0)
    with serve() as client:
        statuses = [client.get(BALANCE, headers=WRONG).status_code for _ in range(30)]
        assert statuses == [401] * 3 + [429] * 27
        assert asked == [WRONG["x-api-key"]] * 5, "each of the first four, and once more to note that it is none"
        assert [client.get(BALANCE).status_code for _ in range(2)] == [200, 200]
        assert client.get(BALANCE, headers={"x-api-key": OTHER_KEY}).status_code == 200
        assert asked[5:] == [KEY, KEY, OTHER_KEY]
    with serve("198.51.100.9") as client:
        assert client.get(BALANCE, headers=WRONG).status_code == 401
        assert asked[8:] == [WRONG["x-api-key"]], "an address within its limit is told by the database"


def test_what_happened_lately_is_forgotten_and_never_much() -> None:
    now = [0.0]
    lately: Lately[int] = Lately(5.0, 3, lambda: now[0])
    for number in range(3):
        lately.note(number)
        now[0] += 1
    lately.note(0)
    lately.note(3)
    assert [number in lately for number in range(5)] == [True, False, True, True, False]
    now[0] = 7
    assert [number in lately for number in range(5)] == [True, False, False, True, False]
    assert len(lately._until) == 3


def test_a_valid_key_does_not_count_for_its_address(serve: Serve) -> None:
    with serve() as client:
        for _ in range(4):
            client.get(BALANCE)
        assert left(client.get(BALANCE, headers=WRONG)) == ("without-key", 2)


@pytest.mark.parametrize("path", ["/health", "/api/v1/health", "/openapi.json", "/objects/a/b", "/nowhere"])
def test_what_costs_nothing_is_not_limited(serve: Serve, path: str) -> None:
    with serve() as client:
        for _ in range(10):
            answer = client.get(path, headers=WRONG)
            assert answer.status_code != 429
            assert "ratelimit" not in answer.headers
        assert client.get(BALANCE, headers=WRONG).status_code == 401


def test_options_are_not_limited(serve: Serve) -> None:
    with serve() as client:
        assert {client.options(BALANCE).status_code for _ in range(10)} == {204}


def test_only_what_needs_no_key_is_exempt() -> None:
    assert all(each.limited or each.public for each in OPERATIONS)


def test_zero_is_no_limit(serve: Serve) -> None:
    with serve(writes_per_minute=0, reads_per_minute=0, requests_per_minute_without_key=0) as client:
        for _ in range(10):
            assert "ratelimit" not in client.get(BALANCE).headers
            assert client.post(KEYS, json={"label": "x"}).status_code == 201
            assert client.get(BALANCE, headers=WRONG).status_code == 401


def test_an_absent_database_counts_nothing(serve: Serve, database: DatabaseDouble) -> None:
    with serve() as client:
        database.failure = ConnectionRefusedError()
        for _ in range(10):
            assert client.get(BALANCE).status_code == 503
        database.failure = None
        assert left(client.get(BALANCE)) == ("reads", 3)


def test_a_peer_cannot_say_that_it_is_another(serve: Serve) -> None:
    with serve() as client:
        for number in range(4):
            answer = client.get(BALANCE, headers={**WRONG, "X-Forwarded-For": f"198.51.100.{number}"})
        assert answer.status_code == 429


def test_a_trusted_proxy_says_who_asks(serve: Serve) -> None:
    with serve("10.1.2.3", trusted_proxies="10.1.0.0/16, 192.0.2.9") as client:
        for number in range(4):
            answer = client.get(BALANCE, headers={**WRONG, "X-Forwarded-For": f"198.51.100.{number}"})
            assert left(answer) == ("without-key", 2)


def test_behind_a_trusted_proxy_what_the_caller_wrote_does_not_count(serve: Serve) -> None:
    with serve("10.1.2.3", trusted_proxies="10.1.0.0/16,192.0.2.9") as client:
        for number in range(4):
            chain = f"198.51.100.{number}, 203.0.113.7, 192.0.2.9"
            answer = client.get(BALANCE, headers={**WRONG, "X-Forwarded-For": chain})
        assert answer.status_code == 429


@pytest.mark.parametrize("nonsense", ["", ",", "unknown", "10.1.0.1", "x" * 5000, "[", "198.51.100.1:x:y"])
def test_nonsense_from_a_trusted_proxy_is_one_sender(serve: Serve, nonsense: str) -> None:
    with serve("10.1.2.3", trusted_proxies="10.1.0.0/16") as client:
        answers = [client.get(BALANCE, headers={**WRONG, "X-Forwarded-For": nonsense}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]


def test_a_subscriber_of_ipv6_is_one_sender(serve: Serve) -> None:
    with serve("10.1.2.3", trusted_proxies="10.1.2.3") as client:
        for number in range(4):
            answer = client.get(BALANCE, headers={**WRONG, "X-Forwarded-For": f"[2001:db8:1:2:{number}::1]:99"})
        assert answer.status_code == 429
        assert client.get(BALANCE, headers={**WRONG, "X-Forwarded-For": "2001:db8:1:3::1"}).status_code == 401


class Away(MemoryWindows):
    """A shared store that fails while `away`."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.asked = 0

    async def take(self, policy: Policy, who: str, amount: int = 1) -> Standing:
        self.asked += 1
        if self.away:
            raise TimeoutError
        return await super().take(policy, who, amount)


def failures() -> float:
    return metrics.REGISTRY.get_sample_value("killatamata_rate_limit_store_failures_total") or 0.0


def test_while_the_store_is_away_the_process_counts_for_itself(serve: Serve) -> None:
    shared, before, now = Away(), failures(), [0.0]
    with serve(shared=shared, clock=lambda: now[0]) as client:
        assert left(client.get(BALANCE)) == ("reads", 3)
        shared.away = True
        assert [client.get(BALANCE).status_code for _ in range(6)] == [200] * 4 + [429] * 2
        assert (shared.asked, failures() - before) == (2, 1)
        shared.away = False
        now[0] += RETRY_STORE_SECONDS
        assert left(client.get(BALANCE)) == ("reads", 2)


@pytest.fixture
async def redis(short_folder: Path) -> AsyncIterator[tuple[Any, str]]:
    with redis_server(short_folder) as (process, url):
        yield process, url


async def test_two_ingresses_count_in_one_redis_and_outlive_it(redis: tuple[Any, str], tmp_path: Path) -> None:
    process, url = redis
    settings = Settings(data_dir=tmp_path, rate_limit_store=url, **FEW)
    both = [RateLimits.of(settings) for _ in range(2)]
    assert [(await each.standing(each.reads, "a")) is not None for each in both] == [True, True]
    scopes: list[dict[str, Any]] = [{"state": {}, "client": ("203.0.113.7", 1)} for _ in range(4)]
    for number, scope in enumerate(scopes[:3]):
        await both[number % 2].admit_address(scope)
    with pytest.raises(RateLimited, match="This address may send 3 requests"):
        await both[1].admit_address(scopes[3])
    process.send_signal(signal.SIGKILL)
    process.wait()
    for scope in scopes[:3]:
        await both[0].admit_address(scope)
    with pytest.raises(RateLimited):
        await both[0].admit_address(scopes[3])
    for each in both:
        await each.close()


async def test_a_store_from_the_settings_is_a_redis(tmp_path: Path) -> None:
    limits = RateLimits.of(Settings(data_dir=tmp_path, rate_limit_store="redis://:secret@127.0.0.1:1/0"))
    assert isinstance(limits._shared, RedisWindows)
    standing = await limits.standing(limits.reads, "a")
    assert standing is not None
    assert standing.remaining == 1200
    await limits.close()
