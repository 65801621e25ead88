"""An ingress application behind a real uvicorn on loopback, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette

from api.server import STALLED_SECONDS, listen


@dataclass(frozen=True)
class Tcp:
    """Where the server answers, and the server."""

    url: str
    port: int
    server: uvicorn.Server

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.server.server_state.connections)

    @property
    def requests(self) -> int:
        """How many are being answered."""
        return len(self.server.server_state.tasks)


@asynccontextmanager
async def over_tcp(app: Starlette, stalled_seconds: float = STALLED_SECONDS) -> AsyncIterator[Tcp]:
    """`app`, whose lifespan already runs, as uvicorn serves it in production."""
    with listen("127.0.0.1", 0, stalled_seconds) as listening:
        config = uvicorn.Config(
            app, lifespan="off", http="httptools", ws="none", log_config=None, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        port = listening.getsockname()[1]
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield Tcp(f"http://127.0.0.1:{port}", port, server)
        server.should_exit = True
        await serving
