"""The ingress: one Starlette application per process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api import (
    balance,
    billing,
    events,
    health,
    jobs,
    keys,
    limits,
    metrics,
    openapi,
    outputs,
    quotes,
    uploads,
    webhooks,
)
from api.cors import Cors
from api.errors import HANDLERS
from api.middleware import RequestContext
from api.objects import read_object
from api.observation import Observation
from api.routing import Operation, routes
from api.services import Services
from api.stopping import foretold
from api.uploaded import put_upload
from core.database import UNAVAILABLE, patiently
from core.garbage import spare_the_collector
from core.log import configure, logger
from core.settings import Settings

OPERATIONS: tuple[Operation, ...] = (
    jobs.submit_job,
    jobs.get_jobs,
    jobs.cancel_job,
    events.stream_events,
    quotes.create_quote,
    uploads.create_upload,
    outputs.delete_outputs,
    webhooks.get_webhook_secret,
    webhooks.rotate_webhook_secret,
    webhooks.list_deliveries,
    webhooks.redeliver,
    billing.get_receipt,
    balance.get_balance,
    billing.list_entries,
    keys.list_keys,
    keys.create_key,
    keys.revoke_key,
    read_object,
    put_upload,
    limits.get_limits,
    health.health,
    openapi.openapi,
)

_log = logger(__name__)


def create_app(settings: Settings) -> Starlette:
    """The ingress as `settings` describe it."""
    return application(Services.of(settings))


def from_environment() -> Starlette:
    """The ingress of a worker process: settings and log from the environment."""
    settings = Settings()
    configure(settings.log_level, json=settings.log_json)
    app = create_app(settings)
    spare_the_collector()
    return app


def application(services: Services) -> Starlette:
    """The ingress over `services`."""
    app = Starlette(
        routes=[*routes(OPERATIONS), metrics.route(services)],
        middleware=[
            *_proxies(services.settings),
            Middleware(Cors),
            Middleware(RequestContext),
            Middleware(Observation),
        ],
        exception_handlers=dict(HANDLERS),
        lifespan=_lifespan,
    )
    # A redirect from /balance/ would name whatever Host the caller sent.
    app.router.redirect_slashes = False
    app.state.services = services
    app.state.openapi = json.dumps(openapi.document(OPERATIONS, services.base_url)).encode()
    return app


def _proxies(settings: Settings) -> list[Middleware]:
    trusted = [part.strip() for part in settings.trusted_proxies.split(",") if part.strip()]
    if not trusted:
        return []
    middleware: Any = ProxyHeadersMiddleware
    return [Middleware(middleware, trusted_hosts=trusted)]


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    """Connect; while PostgreSQL is away go on trying, and answer 503 instead of not at all."""
    services: Services = app.state.services
    opening: asyncio.Task[None] | None = None
    try:
        await services.database.open()
    except UNAVAILABLE as error:
        _log.warning("the database is not reachable; trying again and again", error=repr(error))
        opening = asyncio.create_task(_open_patiently(services))
    services.wakeup.start()
    services.hub.start()
    try:
        with foretold(services.hub.close):
            yield
    finally:
        await services.hub.stop()
        await services.wakeup.stop()
        if opening is not None:
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening
        await services.rate_limits.close()
        await services.database.close()


async def _open_patiently(services: Services) -> None:
    try:
        await patiently(services.database.open)
    except Exception:
        _log.exception("the database cannot be opened; set it right and start the ingress again")
        raise
    _log.info("the database is reachable")
