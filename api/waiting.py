"""`Prefer: wait=N` (RFC 7240): the answer of a submit is the finished job, if it ends in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.request import parse_http_list

from starlette.datastructures import Headers
from starlette.requests import Request

from api.views import live
from core.errors import FieldProblem
from jobs.events import Hub, Watch
from jobs.models import Job
from tasks.validation import refusal

HEADER = "Prefer"
DESCRIPTION = "wait=N: answer 200 with the finished job if it ends within N seconds, else 202 as without it."


def wished(headers: Headers, most: int) -> int | None:
    """Seconds that the caller would wait, or None; preferences other than `wait`, and all but the first, play no part.

    Raises:
        InvalidInput: `wait` is no whole number from 0 to `most`.
    """
    for preference in parse_http_list(", ".join(headers.getlist(HEADER))):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            digits = value.strip().strip('"')
            if not (digits.isascii() and digits.isdecimal() and len(digits) <= 9 and int(digits) <= most):
                problem = FieldProblem(HEADER, "asks to wait for something else", allowed=f"wait=0 to wait={most}")
                raise refusal([problem])
            return int(digits)
    return None


def applied(seconds: int) -> dict[str, str]:
    """The header that says that the wait was kept."""
    return {"Preference-Applied": f"wait={seconds}"}


async def has_ended(request: Request, hub: Hub, job: Job, seconds: int) -> bool:
    """Wait until the job has ended, for so many seconds, and no longer than the caller does. Needs no connection."""
    if not live(job.state):
        return True
    with hub.watch(job.id, job.sequence) as watch, suppress(TimeoutError):
        async with _while_there(request, watch), asyncio.timeout(seconds):
            while events := await watch.take():
                if events[-1].final:
                    return True
    return False


@asynccontextmanager
async def _while_there(request: Request, watch: Watch) -> AsyncIterator[None]:
    """End the watch when the caller hangs up."""

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        watch.end()

    listening = asyncio.create_task(listen())
    try:
        yield
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
