"""The yardstick for answers: one constant JSON body from the uvicorn that also runs the ingress, and nothing else.

`python -m benchmarks.constant FD BODY` answers everything on the listening socket FD with BODY.
"""

from __future__ import annotations

import socket
import sys

import uvicorn
from starlette.types import Receive, Scope, Send


class Constant:
    """An ASGI application that answers everything with the same bytes."""

    def __init__(self, body: bytes) -> None:
        self._headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


def main() -> None:
    """The command."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(
        Constant(sys.argv[2].encode()),
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
