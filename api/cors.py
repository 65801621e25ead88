"""Letting pages of any origin call with a key: what OPTIONS answers, and the headers that every answer has."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALLOWED_HEADERS = (
    "Authorization, x-api-key, Content-Type, X-Idempotency-Key, Idempotency-Key, X-Request-Id, Prefer, Last-Event-ID, "
    "Range, If-Range, If-None-Match, PAYMENT-SIGNATURE"
)
EXPOSED_HEADERS = (
    "X-Request-Id, Idempotency-Replayed, Location, Retry-After, RateLimit, RateLimit-Policy, Deprecation, Sunset, ETag, "
    "Accept-Ranges, Content-Range, Content-Length, Content-Disposition, WWW-Authenticate, Allow, Preference-Applied, "
    "PAYMENT-REQUIRED, PAYMENT-RESPONSE"
)

ANY_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"

_SHARED = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
)
_PREFLIGHT = {"Access-Control-Allow-Headers": ALLOWED_HEADERS, "Access-Control-Max-Age": "86400"}


def preflight(methods: str) -> Response:
    """The answer to OPTIONS on a path that takes `methods` (`GET, POST`)."""
    return Response(status_code=204, headers={"Allow": methods, "Access-Control-Allow-Methods": methods, **_PREFLIGHT})


class Cors:
    """Lets a page of any origin call with a key; cookies are never sent along."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_SHARED]
            await send(message)

        await self.app(scope, receive, shared)
