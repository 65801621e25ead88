"""The yardsticks for answers: one constant JSON from the uvicorn that also runs the ingress, and nothing else.

`python -m benchmarks.constant FD KIND BODY` answers on the listening socket FD with BODY. KIND is `starlette` (one route,
which renders its answer each time) or `bare` (an ASGI application that sends the same bytes).
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Constant:
    """An ASGI application that answers everything with the same bytes."""

    def __init__(self, body: bytes) -> None:
        self._headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


def plain(body: bytes) -> Starlette:
    """A Starlette application whose one route answers with that JSON."""
    content = json.loads(body)

    async def answer(_request: Request) -> JSONResponse:
        return JSONResponse(content)

    return Starlette(routes=[Route("/{path:path}", answer)])


KINDS: dict[str, Callable[[bytes], ASGIApp]] = {"starlette": plain, "bare": Constant}


def main() -> None:
    """The command."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(
        KINDS[sys.argv[2]](sys.argv[3].encode()),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
