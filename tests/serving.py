"""The real ingress application over a real database, in the test's own event loop, called without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from starlette.applications import Starlette

from accounts import accounts
from api.app import application
from api.services import Services
from billing import price_books, wallets
from core.settings import Settings
from jobs import pools
from jobs.leases import Leases, Outcome
from jobs.models import Lease
from pricing.book import PriceBook

BASE_URL = "https://api.example.test"
FOX = {"task": "image.generate", "input": {"prompt": "cinematic fox astronaut", "seed": 7}}
POOL = "qwen-image"


@dataclass(frozen=True)
class Served:
    """An ingress with one account of `credit` micro-dollars whose key `client` carries."""

    app: Starlette
    services: Services
    client: httpx.AsyncClient
    account: UUID
    session: int

    async def submit(self, **changes: Any) -> dict[str, Any]:
        """A job that was accepted."""
        answer = await self.client.post("/api/v1/media/jobs", json=FOX | changes)
        assert answer.status_code == 202, answer.text
        accepted: dict[str, Any] = answer.json()
        return accepted

    async def claim(self) -> Lease:
        """The next job, as a dispatcher leases it."""
        (lease,) = await Leases(self.services.database).claim(POOL, 1, self.session)
        return lease

    async def succeed(self, lease: Lease, *outputs: dict[str, Any]) -> None:
        """End a job well."""
        outcome = Outcome(outputs=outputs, engine="e", weights_digest="d", stand_in=True, replica="r")
        assert await Leases(self.services.database).settle(lease, "succeeded", outcome) == "succeeded"

    async def another(self) -> httpx.AsyncClient:
        """A client of a new account."""
        _, key = await customer(self.services, 1_000_000)
        return _client(self.app, key)


def _client(app: Starlette, key: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers={"x-api-key": key})


async def customer(services: Services, credit: int) -> tuple[UUID, str]:
    """A new account and its key."""
    async with services.database.transaction() as connection:
        made = await accounts.create(connection, "customer")
        key, _ = await services.keys.create(connection, made.id, "test")
        if credit:
            await wallets.topup(connection, made.id, credit, f"first:{made.id}")
    return made.id, key


@asynccontextmanager
async def serving(
    database_url: str, data_dir: Path, *, credit: int = 10_000_000, **settings: Any
) -> AsyncIterator[Served]:
    """An ingress with its settings but for `settings`, one pool, and one dispatcher's session."""
    fields: dict[str, Any] = {"secret_key": "k" * 32, "public_url": BASE_URL, "database_url": database_url}
    services = Services.of(Settings(data_dir=data_dir, **(fields | settings)))
    app = application(services)
    async with app.router.lifespan_context(app):
        await pools.declare(services.database, frozenset({POOL}))
        await pools.set_slots(services.database, {POOL: 4})
        async with services.database.transaction() as connection:
            await price_books.publish(connection, PriceBook.built_in())
        account, key = await customer(services, credit)
        session = await Leases(services.database).open_session("test")
        async with _client(app, key) as client:
            yield Served(app, services, client, account, session)
