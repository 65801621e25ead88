"""uvicorn around the ingress: one socket, as many processes as the settings say."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from uvicorn.supervisors import Multiprocess

from api.bounded_head import BoundedHead
from core.log import logger
from core.settings import PREFIX, Settings

GRACE_SECONDS = 5
STALLED_SECONDS = 60
"""A caller that takes nothing of what we send for so long is cut off."""
_BACKLOG = 2048
_STORE = f"{PREFIX}RATE_LIMIT_STORE"
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_log = logger(__name__)


def listen(host: str, port: int, stalled_seconds: float = STALLED_SECONDS) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Where the system can, it cuts off callers that stall.

    Raises:
        OSError: the address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Each accepted connection inherits it. It ends a stream whose reader vanished or never reads, write blocked or not.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stalled_seconds * 1000))
    return made


def serve(settings: Settings, listening: socket.socket) -> None:
    """Answer on `listening` until SIGINT or SIGTERM, then give running requests `GRACE_SECONDS`.

    Worker processes read their settings from the environment; the port, which may have been drawn, is added to it.
    """
    os.environ[f"{PREFIX}PORT"] = str(listening.getsockname()[1])
    config = uvicorn.Config(
        "api.app:from_environment",
        factory=True,
        loop="uvloop",
        http=BoundedHead,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=GRACE_SECONDS,
        workers=settings.ingress_workers,
    )
    if settings.ingress_workers > 1 and settings.rate_limit_store is None:
        _log.warning(
            "each ingress process counts rate limits for itself; set a store to count together", setting=_STORE
        )
    with listening, suppress(KeyboardInterrupt), _metrics_folder(settings.ingress_workers):
        if settings.ingress_workers > 1:
            Multiprocess(config, sockets=[listening]).run()
        else:
            uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _metrics_folder(workers: int) -> Iterator[None]:
    """The folder in which several processes add up their metrics: what the environment says, or one of our own."""
    if workers == 1 or _METRICS_FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="kt-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ[_METRICS_FOLDER] = folder
        yield
