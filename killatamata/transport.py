"""Requests that are sent again until there is an answer, and what an answer may be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from core.errors import OperatorError

TRIES = 20
PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0

_NO_JSON = {"error": "no_json", "details": {"message": "the answer is no JSON object; is this the API's address?"}}
_PASSING_CODES = frozenset({"idempotency_in_progress", "rate_limited"})


class Refused(OperatorError):
    """The API said no; the message is its own, `body` all it said."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        self.body = body_of(answer) or _NO_JSON
        self.code = str(self.body.get("error", "error"))
        details = self.body.get("details")
        details = details if isinstance(details, Mapping) else {}
        fields = "".join(f"\n  {field['path']}: {field['message']}" for field in details.get("fields", ()))
        super().__init__(f"{self.status} {self.code}: {details.get('message', '')}{fields}")


class Unreachable(OperatorError):
    """The connection failed every time."""


async def json_of(http: httpx.AsyncClient, method: str, url: str, **request: Any) -> dict[str, Any]:
    """The JSON object that a request is answered with; lost connections, 503 and rate limits are tried again.

    Raises:
        Refused: the API said no.
        Unreachable: the connection failed `TRIES` times.
    """
    for left in reversed(range(TRIES)):
        try:
            answer = await http.request(method, url, **request)
        except httpx.RequestError as error:
            if not left:
                raise Unreachable(f"{http.base_url} cannot be reached: {error!r}") from error
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        body = body_of(answer)
        if answer.is_success and body is not None:
            return body
        if not left or not passing(answer):
            raise Refused(answer)
        await asyncio.sleep(pause(answer))
    raise AssertionError("unreachable")


def body_of(answer: httpx.Response) -> dict[str, Any] | None:
    """The JSON object of an answer; None when something on the way to the API answered in its place."""
    try:
        body = answer.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def passing(answer: httpx.Response) -> bool:
    """Whether the same request may fare better in a moment."""
    code = (body_of(answer) or {}).get("error")
    if code == "upload_conflict":
        return "Retry-After" in answer.headers
    return code in _PASSING_CODES or (answer.status_code == 503 and code != "task_unavailable")


def pause(answer: httpx.Response) -> float:
    """Seconds that `Retry-After` asks for; a date (RFC 9110, section 10.2.3) counts as absent."""
    text = answer.headers.get("Retry-After", "")
    return min(float(text), LONGEST_PAUSE_SECONDS) if text.isascii() and text.isdigit() else PAUSE_SECONDS
