"""`/objects/…`: stored files, to whoever holds a signed URL; from every store alike."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import BinaryIO

from anyio import CancelScope
from anyio.to_thread import run_sync
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.call import Call
from api.models import Query
from api.routing import operation
from core.clock import now
from core.errors import Forbidden, OutputExpired, RangeNotSatisfiable, StorageUnavailable
from storage import MissingObject, attachment

_CHUNK_BYTES = 256 << 10
_RANGE = re.compile(r"bytes\s*=\s*(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))\s*", re.IGNORECASE)
_ANY = ("ETag", "X-Content-Type-Options", "Content-Security-Policy")
_WHOLE = (*_ANY, "Content-Disposition", "Accept-Ranges")


class ObjectQuery(Query):
    """What the URL was signed with."""

    expires: str = ""
    filename: str = ""
    signature: str = ""


class _Download(StreamingResponse):
    """A stream, read in threads no faster than the client takes it, and closed whatever becomes of the client."""

    def __init__(self, stream: BinaryIO, status: int, headers: dict[str, str]) -> None:
        super().__init__(self._chunks(), status, headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await run_sync(self._stream.close)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while chunk := await run_sync(self._stream.read, _CHUNK_BYTES):
            yield chunk


@operation(
    "GET",
    "/objects/{key:path}",
    tag="media",
    answer=None,
    query=ObjectQuery,
    errors=(Forbidden, OutputExpired, RangeNotSatisfiable, StorageUnavailable),
    public=True,
    limited=False,
    also=dict.fromkeys((HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NOT_MODIFIED, HTTPStatus.TEMPORARY_REDIRECT)),
    headers={
        "Range": "The bytes to send, one range of them: bytes=0-99, bytes=100- or bytes=-100.",
        "If-Range": "The ETag that the range is of; of any other version the whole file is sent.",
        "If-None-Match": "The ETags that are known: the answer is 304 when the file's is among them.",
    },
    answer_headers={
        HTTPStatus.OK: _WHOLE,
        HTTPStatus.PARTIAL_CONTENT: (*_WHOLE, "Content-Range"),
        HTTPStatus.NOT_MODIFIED: _ANY,
        HTTPStatus.TEMPORARY_REDIRECT: ("Location",),
    },
)
async def read_object(call: Call[None, ObjectQuery]) -> Response:
    """Download a file by the signed URL that a job gave. Takes one Range, If-Range and If-None-Match."""
    store, request, key = call.services.store, call.request, call.request.path_params["key"]
    instant = now()
    filename = store.verify(key, call.query.model_dump(), instant)
    expires_at = datetime.fromtimestamp(int(call.query.expires), UTC)
    artifact = await run_sync(store.stat, key)
    if artifact is None:
        raise _gone()
    headers = {
        "ETag": f'"{artifact.sha256}"',
        "Cache-Control": f"private, max-age={int((expires_at - instant).total_seconds())}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    if _has(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    headers |= {
        "Content-Type": artifact.mime_type,
        "Content-Length": str(artifact.bytes),
        "Content-Disposition": attachment(filename),
        "Accept-Ranges": "bytes",
    }
    if request.method == "HEAD":
        return Response(headers=headers)
    direct = await run_sync(partial(store.direct_url, key, expires_at=expires_at, filename=filename))
    if direct is not None:
        return Response(status_code=307, headers={"Location": direct})
    span = _span(request.headers, headers["ETag"], artifact.bytes)
    try:
        if span is None:
            return _Download(await run_sync(store.open, key), 200, headers)
        start, stop = span
        headers |= {
            "Content-Length": str(stop - start),
            "Content-Range": f"bytes {start}-{stop - 1}/{artifact.bytes}",
        }
        return _Download(await run_sync(store.open_range, key, start, stop), 206, headers)
    except MissingObject:
        raise _gone() from None


def _gone() -> OutputExpired:
    return OutputExpired("This file was deleted when its time was over.")


def _has(headers: Headers, etag: str) -> bool:
    known = {each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")}
    return bool({"*", etag} & known)


def _span(headers: Headers, etag: str, size: int) -> tuple[int, int] | None:
    """Start and stop of the range that is asked for; a Range that makes no sense counts as none (RFC 9110, 14.2), and so
    do several at once, or one of another version (`If-Range`).

    Raises:
        RangeNotSatisfiable: there is nothing in it.
    """
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or headers.get("if-range", etag) != etag:
        return None
    first, last, suffix = (None if group is None else int(group) for group in found.groups())
    if first is not None and last is not None and last < first:
        return None
    start = max(size - (suffix or 0), 0) if first is None else first
    if start >= size:
        raise RangeNotSatisfiable(
            f"The file has {size} bytes; ask for a range that begins before its end.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, size if last is None else min(last + 1, size)
