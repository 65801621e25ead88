"""A real server of the ingress, in a thread of the test."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from api.app import application
from api.bounded_head import BoundedHead
from api.services import Services


@contextmanager
def served(services: Services) -> Iterator[int]:
    """The ingress on a port of its own."""
    config = uvicorn.Config(application(services), http=BoundedHead, log_config=None, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for `condition`, 20 s at most."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)
