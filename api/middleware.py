"""What every response has: a request id, a caching rule, where its caller stands; an unforeseen fault becomes a 500."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from api.errors import answer
from core.errors import Internal
from core.ids import encode, uuid7
from core.log import logger

_log = logger(__name__)
_NO_STORE = (b"cache-control", b"no-store")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class RequestContext:
    """Names the request, in its response and in every line logged meanwhile, and answers faults nobody foresaw."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else encode("req", uuid7())
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = [*message["headers"], (b"x-request-id", request_id.encode())]
                if all(name != b"cache-control" for name, _ in headers):
                    headers.append(_NO_STORE)
                headers += [(name.encode(), value.encode()) for name, value in state.get("rate_limit", {}).items()]
                message["headers"] = headers
            await send(message)

        tokens = bind_contextvars(request_id=request_id)
        try:
            await self.app(scope, receive, named)
        except Exception as error:
            _log.error("request failed", method=scope["method"], path=scope["path"], exc_info=error)
            if started:
                raise
            await answer(Internal())(scope, receive, named)
        finally:
            reset_contextvars(**tokens)
