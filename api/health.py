"""`/health`: whether this process answers, and on request whether what it needs does."""

from __future__ import annotations

import asyncio
from typing import Literal

from pydantic import Field
from starlette.responses import Response

from api.call import Call
from api.models import Answer, Query
from api.routing import BASE, operation
from core.database import UNAVAILABLE
from core.errors import DatabaseUnavailable

_PATIENCE_SECONDS = 2


class HealthQuery(Query):
    """How closely to look."""

    deep: bool = Field(False, description="Also ask the database.")


class Parts(Answer):
    """What the service needs, part by part."""

    database: Literal["ok"]


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
    errors=(DatabaseUnavailable,),
    public=True,
    limited=False,
    aliases=("/health",),
)
async def health(call: Call[None, HealthQuery]) -> Response:
    """Say that the service answers; with deep=1, ask each part it needs."""
    if not call.query.deep:
        return HealthAnswer(status="ok").response()
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await call.services.database.fetch_value("SELECT 1")
    except UNAVAILABLE as error:
        raise DatabaseUnavailable(details={"parts": {"database": "unavailable"}}) from error
    return HealthAnswer(status="ok", parts=Parts(database="ok")).response()
