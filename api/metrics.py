"""`/metrics`: what all ingress processes count, and what the database knows, for Prometheus; not for the public."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import TypeAlias
from urllib.parse import urlsplit

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from api.services import Services
from billing import checks
from core.database import UNAVAILABLE, Database
from core.log import logger
from core.metrics import REGISTRY, SHARED
from core.settings import Settings
from jobs import statistics

FRESH_SECONDS = 5.0
"""The database is asked once in so long, however many scrape."""

PATIENCE_SECONDS = 2.0
_FORWARDING = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via", "origin")

Source: TypeAlias = Callable[[Database], Awaitable[list[Metric]]]

_log = logger(__name__)


def _gauge(name: str, about: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(f"killatamata_{name}", about, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


async def queues(database: Database) -> list[Metric]:
    """Pools and what waits in them."""
    fleet, waiting = await statistics.pools(database), await statistics.queues(database)
    running, quarantined = await statistics.running(database), await statistics.quarantined(database)
    ages = {each.pool: 0.0 for each in waiting}
    for each in waiting:
        ages[each.pool] = max(ages[each.pool], each.age or 0.0)
    pool_state = ("pool", "state")
    return [
        _gauge("pool_slots", "Replicas that are ready.", ["pool"], [([each.name], each.slots) for each in fleet]),
        _gauge("pool_paused", "1: nothing of it is claimed.", ["pool"], [([each.name], each.paused) for each in fleet]),
        _gauge(
            "queue_jobs", "Jobs in the queue.", pool_state, [([each.pool, each.state], each.jobs) for each in waiting]
        ),
        _gauge(
            "queue_work_seconds",
            "Estimated run time of the jobs in the queue.",
            pool_state,
            [([each.pool, each.state], each.seconds) for each in waiting],
        ),
        _gauge(
            "queue_oldest_age_seconds",
            "Since the submit of the oldest job that has not begun.",
            ["pool"],
            [([pool], age) for pool, age in ages.items()],
        ),
        _gauge("jobs_running", "Jobs that a replica works on.", ["task"], [([task], n) for task, n in running.items()]),
        _gauge(
            "jobs_quarantined",
            "Jobs that an operator holds back, or that failed after their last attempt.",
            ["state"],
            [([state], n) for state, n in quarantined.items()],
        ),
    ]


async def money(database: Database) -> list[Metric]:
    """What is set aside."""
    found = await statistics.holds(database)
    return [
        _gauge("holds_open", "Holds neither captured nor released.", [], [([], found.open)]),
        _gauge("holds_open_micros", "Their sum, in micro-dollars.", [], [([], found.micros)]),
        _gauge("holds_of_ended_jobs", "Holds whose job has ended: must be 0.", [], [([], found.ended)]),
    ]


async def deliveries(database: Database) -> list[Metric]:
    """Webhooks under way."""
    found = await statistics.deliveries(database)
    return [
        _gauge("deliveries_pending", "Webhooks neither delivered nor given up.", [], [([], found.pending)]),
        _gauge("deliveries_oldest_age_seconds", "Since the oldest of them came up.", [], [([], found.age or 0.0)]),
    ]


async def ledger(database: Database) -> list[Metric]:
    """What the background process found when it last checked the ledger."""
    found = await checks.last(database)
    return [
        _gauge(
            "ledger_check_wrong", "Accounts at fault: must be 0.", ["scope"], [([e.scope], len(e.wrong)) for e in found]
        ),
        _gauge(
            "ledger_check_timestamp_seconds",
            "When the check was made, since 1970.",
            ["scope"],
            [([each.scope], each.at.timestamp()) for each in found],
        ),
    ]


SOURCES: tuple[Source, ...] = (queues, money, deliveries, ledger)
"""What is asked of the database at a scrape."""


class DatabaseMetrics(Collector):
    """What the sources said, at most `FRESH_SECONDS` ago; nothing but `database_up 0` when they cannot say."""

    def __init__(self, database: Database, sources: Sequence[Source]) -> None:
        self._database = database
        self._sources = sources
        self._metrics: list[Metric] = []
        self._read_at = -FRESH_SECONDS
        self._reading = asyncio.Lock()

    def collect(self) -> list[Metric]:
        """The last reading."""
        return self._metrics

    async def refresh(self) -> None:
        """Read again if the last reading is old."""
        async with self._reading:
            if time.monotonic() - self._read_at < FRESH_SECONDS:
                return
            found: list[Metric] = []
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    for source in self._sources:
                        found += await source(self._database)
                up = True
            except UNAVAILABLE as error:
                _log.warning("the database could not be read for /metrics", error=repr(error))
                found, up = [], False
            self._metrics = [*found, _gauge("database_up", "1: the database answered in time.", [], [([], up)])]
            self._read_at = time.monotonic()


def may_read(settings: Settings, scope: Scope) -> bool:
    """Whether a request may see the metrics: by the token, or where none is set, from this machine and past no proxy.

    With a public URL there is a proxy, which may come from this machine and look like any program here.
    """
    headers = Headers(scope=scope)
    if settings.metrics_token is not None:
        expected = f"Bearer {settings.metrics_token.get_secret_value()}"
        return hmac.compare_digest(headers.get("authorization", "").encode(), expected.encode())
    client = scope.get("client")
    if client is None or any(map(headers.get, _FORWARDING)):
        return False
    # The Host must be of this machine too, or a page whose name resolves to loopback could read on.
    urls = [f"//{headers.get('host', '')}", *([settings.public_url] if settings.public_url else [])]
    try:
        names = [client[0], *(urlsplit(url).hostname or "" for url in urls)]
        return all(name == "localhost" or ip_address(name).is_loopback for name in names)
    except ValueError:
        return False


class _Hidden(Route):
    """A route that is not there for whoever may not use it, so that the router gives its usual 404."""

    settings: Settings

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match is not Match.NONE and not may_read(self.settings, scope):
            return Match.NONE, {}
        return match, child


def route(services: Services) -> Route:
    """The route of `/metrics`."""
    read = DatabaseMetrics(services.database, SOURCES)

    async def metrics(request: Request) -> Response:
        await read.refresh()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        content = await asyncio.to_thread(_exposed, read, encode)
        return Response(content, headers={"Content-Type": content_type})

    made = _Hidden("/metrics", metrics)
    made.settings = services.settings
    return made


def _exposed(read: DatabaseMetrics, encode: Callable[[CollectorRegistry], bytes]) -> bytes:
    registry = CollectorRegistry()
    registry.register(read)
    if SHARED is None:
        registry.register(REGISTRY)
    else:
        for file in SHARED.glob("gauge_live*_*.db"):
            pid = int(file.stem.rpartition("_")[2])
            if not psutil.pid_exists(pid):
                mark_process_dead(pid, str(SHARED))  # type: ignore[no-untyped-call]
        MultiProcessCollector(registry, str(SHARED))  # type: ignore[no-untyped-call]
    return encode(registry)
