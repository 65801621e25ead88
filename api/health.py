"""`/health`: whether this process answers, and on request whether what it needs does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Literal

from pydantic import Field
from starlette.responses import Response

from api.call import Call
from api.client_address import of_this_machine
from api.models import Answer, Query
from api.routing import BASE, operation
from api.services import Services
from billing import checks
from core.clock import now
from core.database import UNAVAILABLE
from core.errors import ApiError, DatabaseUnavailable, RateLimited, StorageUnavailable
from storage import StoreUnavailable

_PATIENCE_SECONDS = 2
_CHECKED_WITHIN = timedelta(minutes=10)
_OFTEN: frozenset[checks.Scope] = frozenset({"touched", "holds", "jobs"})
"""The checks that the background process makes every minute."""

_PROBE = "health/probe"
"""A key that nothing is ever put under: looking for it asks the store, and reads nothing."""

_DISPATCHERS = (
    """SELECT EXISTS (SELECT FROM session WHERE ended_at IS NULL AND beat_at > clock_timestamp() - session_expiry())"""
)


class HealthQuery(Query):
    """How closely to look."""

    deep: bool = Field(False, description="Also ask each part that the service needs.")


class Parts(Answer):
    """What the service needs, part by part."""

    database: Literal["ok"]
    storage: Literal["ok"]
    dispatcher: Literal["ok", "absent"] = Field(description="absent: jobs are accepted, and wait.")
    ledger: Literal["ok", "wrong", "unchecked"] = Field(
        description="What the checks of wallets, holds and jobs found last; unchecked: nothing was in the last ten minutes."
    )


class HealthAnswer(Answer):
    """The process answers."""

    status: Literal["ok"]
    parts: Parts | None = Field(None, description="Only with deep=1.")


@operation(
    "GET",
    f"{BASE}/health",
    tag="service",
    answer=HealthAnswer,
    query=HealthQuery,
    errors=(RateLimited, DatabaseUnavailable, StorageUnavailable),
    public=True,
    limited=False,
    aliases=("/health",),
)
async def health(call: Call[None, HealthQuery]) -> Response:
    """Say that the service answers; with deep=1, ask each part it needs, at most once a second, and answer 503 when one is
    away."""
    if not call.query.deep:
        return HealthAnswer(status="ok").response()
    if not of_this_machine(call.request.scope.get("client")):
        await call.services.rate_limits.admit_address(call.request.scope)
    found: Parts | ApiError = await call.services.parts.get(partial(_parts, call.services))
    if isinstance(found, ApiError):
        raise type(found)(details=found.details)
    return HealthAnswer(status="ok", parts=found).response()


async def _parts(services: Services) -> Parts | ApiError:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            dispatching = await services.database.fetch_value(_DISPATCHERS)
            books = _judged(await checks.last(services.database))
    except UNAVAILABLE:
        return DatabaseUnavailable(details={"parts": {"database": "unavailable"}})
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await asyncio.to_thread(services.store.stat, _PROBE)
    except (StoreUnavailable, TimeoutError):
        return StorageUnavailable(details={"parts": {"database": "ok", "storage": "unavailable"}})
    return Parts(database="ok", storage="ok", dispatcher="ok" if dispatching else "absent", ledger=books)


def _judged(found: Sequence[checks.Check]) -> Literal["ok", "wrong", "unchecked"]:
    if any(check.wrong for check in found):
        return "wrong"
    fresh = now() - _CHECKED_WITHIN
    return "ok" if {check.scope for check in found if check.at > fresh} >= _OFTEN else "unchecked"
