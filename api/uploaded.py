"""`PUT /uploads/…`: the content of an upload, from whoever holds its signed URL, which says all that is to be checked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial

from anyio import CancelScope, current_time
from anyio.to_thread import run_sync
from pydantic import Field
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from api.call import Call
from api.models import Answer, Query
from api.parsing import LEAST_BYTES_A_SECOND, SILENCE_SECONDS
from api.routing import operation
from core.clock import now
from core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    Forbidden,
    InvalidInput,
    Overloaded,
    StorageUnavailable,
    UnsupportedMediaType,
    UploadConflict,
    UploadExpired,
)
from storage import Draft, ObjectExists, Store, UploadPromise

LONGEST_SECONDS = 600.0
"""An upload may take so long, or as long as it needs at `LEAST_BYTES_A_SECOND`."""


class UploadQuery(Query):
    """What the URL was signed with."""

    expires: str = ""
    bytes: str = ""
    sha256: str = ""
    mime_type: str = ""
    signature: str = ""


class UploadedAnswer(Answer):
    """The file is stored."""

    mime_type: str
    bytes: int
    sha256: str = Field(description="Of the content, in lower-case hex.")


@operation(
    "PUT",
    "/uploads/{key:path}",
    tag="media",
    answer=UploadedAnswer,
    query=UploadQuery,
    errors=(Forbidden, BodyTooSlow, UploadConflict, UploadExpired, Overloaded, StorageUnavailable),
    public=True,
    raw=True,
    limited=False,
)
async def put_upload(call: Call[None, UploadQuery]) -> Response:
    """Send a file to the URL that an upload was given. It must have the type, size and digest that were promised, and be
    complete before the URL expires. One sender at a time: who is silent for 30 s is given up. The same file may be sent
    again, another one may not.
    """
    store, request, key = call.services.store, call.request, call.request.path_params["key"]
    instant = now()
    promise = store.verify_upload(key, call.query.model_dump(by_alias=True), instant)
    _check_headers(request.headers, promise)
    with call.services.arrivals.one(key):
        there = await run_sync(store.stat, key)
        if there is not None and promise.sha256 not in (None, there.sha256):
            raise UploadConflict(headers={"Connection": "close"})
        return await _stored(request, store, key, promise, instant)


async def _stored(request: Request, store: Store, key: str, promise: UploadPromise, instant: datetime) -> Response:
    async with _drafted(store, key, promise.mime_type) as draft:
        await _fill(draft, request, promise, (promise.expires_at - instant).total_seconds())
        if draft.size < promise.bytes:
            raise _too_short(draft.size, promise)
        if promise.sha256 not in (None, draft.sha256):
            raise InvalidInput(f"The body's SHA-256 is {draft.sha256}, and {promise.sha256} was promised.")
        await _keep(store, key, draft)
        return UploadedAnswer(mime_type=promise.mime_type, bytes=draft.size, sha256=draft.sha256).response()


async def _fill(draft: Draft, request: Request, promise: UploadPromise, life: float) -> None:
    began = current_time()
    end = began + min(life, max(LONGEST_SECONDS, promise.bytes / LEAST_BYTES_A_SECOND))
    with CancelScope(deadline=min(end, began + SILENCE_SECONDS)) as patience:
        async for chunk in request.stream():
            if draft.size + len(chunk) > promise.bytes:
                raise _too_large(promise)
            await run_sync(draft.write, chunk)
            patience.deadline = min(end, current_time() + SILENCE_SECONDS)
    if patience.cancelled_caught:
        late = UploadExpired if current_time() >= began + life else BodyTooSlow
        raise late(headers={"Connection": "close"})


@asynccontextmanager
async def _drafted(store: Store, key: str, mime_type: str) -> AsyncIterator[Draft]:
    draft = await run_sync(store.draft, key, mime_type)
    try:
        yield draft
    finally:
        with CancelScope(shield=True):
            await run_sync(draft.close)


async def _keep(store: Store, key: str, draft: Draft) -> None:
    try:
        await run_sync(partial(draft.keep, once=True))
    except ObjectExists:
        there = await run_sync(store.stat, key)
        if there is None or there.sha256 != draft.sha256:
            raise UploadConflict from None


def _check_headers(headers: Headers, promise: UploadPromise) -> None:
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in ("", promise.mime_type):
        raise UnsupportedMediaType(f"This URL takes what was promised: send 'Content-Type: {promise.mime_type}'.")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > promise.bytes:
        raise _too_large(promise)
    if declared.isdecimal() and int(declared) < promise.bytes:
        raise _too_short(int(declared), promise)


def _too_large(promise: UploadPromise) -> BodyTooLarge:
    return BodyTooLarge(
        f"This URL takes the {promise.bytes} bytes that were promised, and no more.", headers={"Connection": "close"}
    )


def _too_short(size: int, promise: UploadPromise) -> InvalidInput:
    return InvalidInput(f"The body has {size} bytes, and {promise.bytes} were promised; send the whole file.")
