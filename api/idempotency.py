"""Writes that can be sent again: the key of a request, and the transaction that keeps its first answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from accounts import idempotency
from api.call import Call
from api.models import Answer
from core.database import Connection
from core.errors import FieldProblem
from core.metrics import IDEMPOTENT_REPLAYS
from tasks.validation import refusal

HEADERS = ("X-Idempotency-Key", "Idempotency-Key")
MAX_CHARACTERS = 255
REPLAYED = {"Idempotency-Replayed": "true"}


def key(headers: Headers, in_body: str | None) -> str | None:
    """The idempotency key of a request, if it has one.

    Raises:
        InvalidInput: two that differ, or one that is not 1 to 255 printable ASCII characters.
    """
    given = [(name, value) for name in HEADERS for value in headers.getlist(name)]
    if in_body is not None:
        given.append(("idempotencyKey", in_body))
    problems = [
        FieldProblem(name, "must be 1 to 255 printable ASCII characters")
        for name, value in given
        if not (1 <= len(value) <= MAX_CHARACTERS and value.isascii() and value.isprintable())
    ]
    if len({value for _, value in given}) > 1:
        names = ", ".join(dict.fromkeys(name for name, _ in given))
        problems.append(FieldProblem("idempotencyKey", f"is given more than once, with different values ({names})"))
    if problems:
        raise refusal(problems)
    return given[0][1] if given else None


async def once(
    call: Call[Any, Any], status: int, write: Callable[[Connection], Awaitable[Answer]], *, secrets: Iterable[str] = ()
) -> Response:
    """The answer of `write`, run in a transaction, or the one it gave when the same key came first.

    The fields named in `secrets` are answered once and are null in a replay.

    Raises:
        IdempotencyConflict: the key was used for another body.
        IdempotencyInProgress: a twin is still at work.
    """
    async with call.services.database.transaction() as connection:
        if call.idempotency_key is None:
            return (await write(connection)).response(status)
        scope = (connection, call.account_id, call.route, call.idempotency_key)
        replay = await idempotency.begin(*scope, call.fingerprint)
        if replay is not None:
            return _replayed(call, replay)
        answer = await write(connection)
        await idempotency.record(*scope, status, answer.as_json() | dict.fromkeys(secrets))
    return answer.response(status)


async def kept(call: Call[Any, Any], status: int, work: Callable[[], Awaitable[Answer]]) -> Response:
    """As `once`, for `work` that needs no transaction of ours because doing it again does no harm: twins may both do it.

    Raises:
        IdempotencyConflict: the key was used for another body.
        IdempotencyInProgress: a twin is still at work.
    """
    services, key = call.services, call.idempotency_key
    if key is not None:
        earlier = await idempotency.earlier(services.database, call.account_id, call.route, key, call.fingerprint)
        if earlier is not None:
            return _replayed(call, earlier)
    answer = await work()
    if key is None:
        return answer.response(status)

    async def write(_: Connection) -> Answer:
        return answer

    return await once(call, status, write)


def _replayed(call: Call[Any, Any], replay: idempotency.Replay) -> Response:
    IDEMPOTENT_REPLAYS.labels(call.route).inc()
    return JSONResponse(replay.body, replay.status, REPLAYED)
