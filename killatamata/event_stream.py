"""The events of one job as they happen: server-sent events, taken up again where the connection broke."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import SSEError, aconnect_sse

from killatamata import transport
from killatamata.transport import Refused, Unreachable

PATH = "/api/v1/media/jobs/events"

_SILENCE_SECONDS = 45.0
"""Three heartbeats: a connection that is silent for so long is dead."""

_NO_STREAM = frozenset({404, 405, 429, 501})


class NoStream(Exception):
    """There is no event stream to be had; ask for the job itself."""


@dataclass(frozen=True)
class Event:
    """What happened: `kind` is state, stage, progress, preview or cancel_requested."""

    kind: str
    data: dict[str, Any]


async def events(http: httpx.AsyncClient, job_id: str, after: int) -> AsyncGenerator[Event, None]:
    """What happens to a job behind sequence `after`, until there is nothing more to come.

    Raises:
        NoStream: the API offers no stream, or not now, or it ends again and again without an event.
        Refused: the API said no.
        Unreachable: the connection failed `transport.TRIES` times in a row.
    """
    last, left = str(after), transport.TRIES
    timeout = httpx.Timeout(http.timeout.connect, read=_SILENCE_SECONDS)
    while True:
        seconds = transport.PAUSE_SECONDS
        left -= 1
        try:
            stream = aconnect_sse(
                http, "GET", PATH, params={"jobId": job_id}, headers={"Last-Event-ID": last}, timeout=timeout
            )
            async with stream as source:
                answer = source.response
                if answer.status_code == 204:
                    return
                if answer.status_code == 200:
                    async for each in source.aiter_sse():
                        if each.data:
                            last, left = each.id or last, transport.TRIES
                            yield Event(each.event, _object(each.data))
                else:
                    await answer.aread()
                    seconds = _refusal(answer, left)
        except SSEError:
            raise NoStream from None
        except httpx.RequestError as error:
            if not left:
                raise Unreachable(f"{http.base_url} cannot be reached: {error!r}") from error
        if not left:
            raise NoStream
        await asyncio.sleep(seconds)


def _refusal(answer: httpx.Response, left: int) -> float:
    """The seconds to wait before asking again."""
    if answer.status_code in _NO_STREAM:
        raise NoStream
    if not left or not transport.passing(answer):
        raise Refused(answer)
    return transport.pause(answer)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
