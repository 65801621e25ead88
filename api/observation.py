"""Every request is counted, and leaves one line in the log: writes and refusals at level info, what went well at debug."""

from __future__ import annotations

import logging
import time
from functools import cache
from http import HTTPMethod

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.ids import encode
from core.log import logger
from core.metrics import HTTP_IN_FLIGHT, HTTP_RECEIVED_BYTES, HTTP_REQUESTS, HTTP_SECONDS, HTTP_SENT_BYTES

_METHODS = frozenset(HTTPMethod)
_READS = frozenset({"GET", "HEAD", "OPTIONS"})

_log = logger(__name__)


@cache
def _measures(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """Looked up once: `labels` costs as much as counting."""
    return HTTP_REQUESTS.labels(method, route, status), HTTP_SECONDS.labels(method, route)


@cache
def _bytes_of(route: str, measure: Counter) -> Counter:
    return measure.labels(route)


class Observation:
    """Counts and logs what passes. A body of unknown fate (the caller hung up) is logged with what was sent of it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status, waited, received, sent = 500, 0.0, 0, 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def noted(message: Message) -> None:
            nonlocal status, waited, sent
            if message["type"] == "http.response.start":
                status, waited = int(message["status"]), time.perf_counter() - began
            else:
                sent += len(message.get("body", b""))
            await send(message)

        HTTP_IN_FLIGHT.inc()
        try:
            await self.app(scope, counted, noted)
        finally:
            HTTP_IN_FLIGHT.dec()
            seconds = time.perf_counter() - began
            route = scope["route"].path if "route" in scope else "unmatched"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            requests, durations = _measures(method, route, status)
            requests.inc()
            durations.observe(waited or seconds)
            if received:
                _bytes_of(route, HTTP_RECEIVED_BYTES).inc(received)
            if sent and method != "HEAD":
                _bytes_of(route, HTTP_SENT_BYTES).inc(sent)
            level = logging.DEBUG if status < 400 and method in _READS else logging.INFO
            if _log.is_enabled_for(level):
                account = scope["state"].get("account_id")
                _log.log(
                    level,
                    "request",
                    method=method,
                    route=route,
                    status=status,
                    seconds=round(seconds, 6),
                    **({"account": encode("acct", account)} if account else {}),
                )
