"""What the handlers work with, made once per process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from accounts.keys import Keys
from api.arrivals import Arrivals
from api.cursors import Cursors
from api.event_tokens import EventTokens
from api.lately import Lately
from api.looks import Look
from api.rate_limits import RateLimits
from api.room import Room
from api.seen import SeenJobs
from billing.price_books import PriceBooks
from core.database import Database
from core.settings import Settings
from jobs.admission import Admission
from jobs.artifacts import Artifacts
from jobs.estimates import Estimates
from jobs.events import Hub
from jobs.inputs import Inputs
from jobs.run_times import RunTimes
from jobs.snapshot import Queues
from jobs.store import Jobs
from jobs.uploads import UploadLimits, Uploads
from jobs.wakeup import Wakeup
from pricing.tokens import QuoteTokens
from storage import Store, open_store
from webhooks.store import Webhooks

P = ParamSpec("P")
T = TypeVar("T")

LARGE_BYTES = 1_000_000
"""From this size on, work on a body leaves the event loop."""


@dataclass(frozen=True)
class Services:
    """Settings and stores of one ingress process. `large` lets two large bodies be worked on at a time;
    `parts` is how the parts were a moment ago, `refused_keys` the digests of keys that were no keys then."""

    settings: Settings
    base_url: str
    database: Database
    keys: Keys
    jobs: Jobs
    queues: Queues
    estimates: Estimates
    admission: Admission
    price_books: PriceBooks
    quote_tokens: QuoteTokens
    cursors: Cursors
    event_tokens: EventTokens
    store: Store
    inputs: Inputs
    uploads: Uploads
    artifacts: Artifacts
    wakeup: Wakeup
    rate_limits: RateLimits
    webhooks: Webhooks
    hub: Hub
    room: Room = field(default_factory=lambda: Room(512_000_000, 128_000_000))
    arrivals: Arrivals = field(default_factory=Arrivals)
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    parts: Look[Any] = field(default_factory=Look)
    seen: SeenJobs = field(default_factory=SeenJobs)
    refused_keys: Lately[bytes] = field(default_factory=lambda: Lately(5.0, 10_000))

    @classmethod
    def of(cls, settings: Settings) -> Services:
        """The services that `settings` describe; nothing is connected yet.

        Raises:
            ValueError: the database's URL or our own is not known.
        """
        if settings.database_url is None:
            raise ValueError("set DATABASE_URL; killatamata up sets it for the processes it starts")
        database = Database(
            settings.database_url, direct_url=settings.database_url_direct, size=settings.database_pool_size
        )
        base, queues, keys = settings.base_url, Queues(database), Keys(database, settings.key)
        store = open_store(settings, base)
        return cls(
            settings=settings,
            base_url=base,
            database=database,
            keys=keys,
            jobs=Jobs(database),
            queues=queues,
            estimates=Estimates(queues, RunTimes(database)),
            admission=Admission(queues),
            price_books=PriceBooks(database),
            quote_tokens=QuoteTokens(settings.key),
            cursors=Cursors(settings.key),
            event_tokens=EventTokens(settings.key),
            store=store,
            inputs=Inputs(database, store),
            uploads=Uploads(
                store,
                UploadLimits(settings.uploads_most, settings.uploads_bytes_most, settings.upload_hours * 3600),
            ),
            artifacts=Artifacts(database, store, settings.output_days),
            wakeup=Wakeup(database),
            room=Room(settings.max_bodies_bytes, max(settings.max_bodies_bytes // 4, settings.max_body_bytes)),
            rate_limits=RateLimits.of(settings),
            webhooks=Webhooks(database, settings.key),
            hub=Hub(database, keys),
        )

    async def offload(self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(…)`, in a thread when it works on a body of `LARGE_BYTES` or more."""
        if size < LARGE_BYTES:
            return function(*args, **kwargs)
        async with self.large:
            return await asyncio.to_thread(function, *args, **kwargs)
