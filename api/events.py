"""`/media/jobs/events`: what happens to a job, as server-sent events (HTML standard, section 9.2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from pydantic import Field
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from accounts.keys import Caller
from api.auth import KEY, Access, authenticate
from api.call import Call
from api.event_tokens import MAX_CHARACTERS
from api.job_ids import job_id
from api.models import Query
from api.routing import BASE, operation
from api.services import Services
from api.views import live
from core.clock import now, rfc3339
from core.database import Database
from core.errors import FieldProblem, NotFound, RateLimited, Unauthorized
from core.ids import decode, encode
from core.metrics import EVENT_STREAMS, RATE_LIMITED
from jobs.events import Event, Watch, read
from jobs.models import Job
from tasks.fields import Text
from tasks.validation import refusal

PATH = f"{BASE}/media/jobs/events"
HEARTBEAT_SECONDS = 15.0
LAST_EVENT_ID = "Last-Event-ID"

_RETRY = b"retry: 1000\n"
_HEARTBEAT = b":\n"
"""Neither ends with an empty line, which some clients would take for an event without data."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_SEQUENCE_MOST = 2**31 - 1


class EventsQuery(Query):
    """Which job, and from where on."""

    job_id: Text = Field(description="The jobId of a submit.")
    token: Annotated[Text, Field(max_length=MAX_CHARACTERS)] | None = Field(
        None,
        description="Instead of a key: part of the eventsUrl that the submit gave.",
        json_schema_extra={"x-credential": True},
    )
    last_event_id: Annotated[int, Field(ge=0, le=_SEQUENCE_MOST)] | None = Field(
        None, description=f"The same as the header {LAST_EVENT_ID}, which counts when both are given."
    )


async def _key_or_token(request: Request, services: Services) -> Caller:
    token = request.query_params.get("token")
    if token is None:
        return await authenticate(request, services)
    claim = services.event_tokens.read(token, now())
    if claim.job_id != decode("job", request.query_params.get("jobId", "")):
        raise Unauthorized("This token is for another job; use eventsUrl exactly as the submit gave it.")
    caller = await services.keys.holder(claim.key_prefix)
    if caller is None:
        raise Unauthorized("The API key that gave out this token was revoked.")
    if not {"authorization", "x-api-key"}.isdisjoint(request.headers):
        by_key = await authenticate(request, services)
        if by_key.account_id != caller.account_id:
            raise Unauthorized("The token and the API key belong to different accounts; send one of them.")
    return caller


KEY_OR_TOKEN = Access(_key_or_token, (*KEY.schemes, "eventToken"))


class EventStream(StreamingResponse):
    """Frames until the job ends, the watch is ended, or the caller is gone. The watch ends with it."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncIterator[bytes], watch: Watch | None = None) -> None:
        super().__init__(frames, headers=_HEADERS)
        self._watch: AbstractContextManager[object] = nullcontext() if watch is None else watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        with self._watch, EVENT_STREAMS.track_inprogress():
            await super().__call__(scope, receive, send)


@operation(
    "GET",
    PATH,
    tag="media",
    answer=None,
    also={HTTPStatus.NO_CONTENT: None},
    media_type=EventStream.media_type,
    headers={LAST_EVENT_ID: "Resume after this event: the id of the last one that was received, from 0 on."},
    query=EventsQuery,
    errors=(NotFound, RateLimited),
    access=KEY_OR_TOKEN,
)
async def stream_events(call: Call[None, EventsQuery]) -> Response:
    """Follow a job as server-sent events, to its end. Their id is the job's sequence, their event one of state, stage,
    progress, preview and cancel_requested, their data a JSON object with jobId, sequence, at, and what is new: status,
    stage or progress. When the job has ended and nothing is to come, the answer is 204, which ends an EventSource."""
    services, caller = call.services, call.known_caller
    job = await services.jobs.get(caller.account_id, job_id(call.query.job_id))
    after = _last_event_id(call.request.headers, call.query, job)
    if not live(job.state) and after == job.sequence:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    if call.request.method == "HEAD":
        return Response(headers=_HEADERS, media_type=EventStream.media_type)
    if not live(job.state):
        return EventStream(_past(services.database, job, after))
    most = services.settings.event_streams_per_key
    if services.hub.count(caller.key_prefix) >= most:
        RATE_LIMITED.labels("event-streams").inc()
        raise RateLimited(
            f"This key has {most} event streams open, its limit; close one, or use another key.",
            headers={"Retry-After": "5"},
        )
    watch = services.hub.watch(job.id, after, key_prefix=caller.key_prefix)
    return EventStream(_coming(watch), watch)


def _last_event_id(headers: Headers, query: EventsQuery, job: Job) -> int:
    given = headers.getlist(LAST_EVENT_ID)
    name = LAST_EVENT_ID if given else "lastEventId"
    allowed = f"0 to {job.sequence}"
    if len(given) > 1:
        raise refusal([FieldProblem(name, "is given more than once")])
    if given and not (given[0].isascii() and given[0].isdecimal() and len(given[0]) <= 10):
        raise refusal([FieldProblem(name, "is not the id of an event, a whole number", allowed=allowed)])
    after = int(given[0]) if given else query.last_event_id or 0
    if after > job.sequence:
        raise refusal([FieldProblem(name, "is not an event of this job, which has not come so far", allowed=allowed)])
    return after


async def _coming(watch: Watch) -> AsyncIterator[bytes]:
    yield _RETRY
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                events = await watch.take()
        except TimeoutError:
            yield _HEARTBEAT
            continue
        if events:
            yield _frames(watch.job_id, events)
        if not events or events[-1].final:
            return


async def _past(database: Database, job: Job, after: int) -> AsyncIterator[bytes]:
    yield _RETRY
    while events := (await read(database, [(job.id, after)])).get((job.id, after)):
        yield _frames(job.id, events)
        after = events[-1].seq
    if after < job.sequence:
        yield _frames(job.id, [Event.end_of(job)])


def _frames(job: UUID, events: Iterable[Event]) -> bytes:
    return "".join(_frame(encode("job", job), event) for event in events).encode()


def _frame(job: str, event: Event) -> str:
    data = {"jobId": job, "sequence": event.seq, "at": rfc3339(event.at), **event.data}
    return f"id: {event.seq}\nevent: {event.type}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
