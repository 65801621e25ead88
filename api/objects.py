"""`/objects/…`: the files of the local store, to whoever holds a signed URL."""

from __future__ import annotations

import asyncio
import os
import re

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from api.call import Call
from api.models import Query
from api.routing import operation
from core.clock import now
from core.errors import Forbidden, NotFound, OutputExpired
from storage import Artifact, LocalStore, MissingObject

_SPAN = re.compile(r"([0-9]{1,18})-([0-9]{1,18})?|-[0-9]{1,18}")


class ObjectQuery(Query):
    """What the URL was signed with."""

    expires: str = ""
    filename: str = ""
    signature: str = ""


@operation(
    "GET",
    "/objects/{key:path}",
    tag="media",
    answer=None,
    query=ObjectQuery,
    errors=(Forbidden, NotFound, OutputExpired),
    public=True,
    limited=False,
)
async def read_object(call: Call[None, ObjectQuery]) -> Response:
    """Download a file by the signed URL that a job gave. Takes Range and If-None-Match."""
    store, request, key = call.services.store, call.request, call.request.path_params["key"]
    if not isinstance(store, LocalStore):
        raise NotFound("This service keeps its files elsewhere; use the URL exactly as the job gave it.")
    instant = now()
    filename = store.verify(key, call.query.model_dump(), instant)
    try:
        artifact, path, status = await asyncio.to_thread(_find, store, key)
    except (MissingObject, FileNotFoundError):
        raise OutputExpired("This file was deleted when its time was over.") from None
    headers = {
        "ETag": f'"{artifact.sha256}"',
        "Cache-Control": f"private, max-age={int(int(call.query.expires) - instant.timestamp())}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    if _has(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    _drop_unusable_range(request)
    return FileResponse(path, headers=headers, media_type=artifact.mime_type, filename=filename, stat_result=status)


def _find(store: LocalStore, key: str) -> tuple[Artifact, os.PathLike[str], os.stat_result]:
    artifact = store.stat(key)
    if artifact is None:
        raise MissingObject(key)
    path = store.path(key)
    return artifact, path, path.stat()


def _has(headers: Headers, etag: str) -> bool:
    known = {each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")}
    return bool({"*", etag} & known)


def _drop_unusable_range(request: Request) -> None:
    """A Range that makes no sense counts as none (RFC 9110, section 14.2); Starlette would answer it with 400."""
    unit, _, spans = request.headers.get("range", "bytes=-").partition("=")
    found = [_SPAN.fullmatch(span.strip()) for span in spans.split(",")]
    sensible = all(span and (span[2] is None or int(span[1]) <= int(span[2])) for span in found)
    if unit.strip().lower() != "bytes" or not sensible:
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
