"""Hearing that the process is about to stop while its requests still run."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def foretold(call: Callable[[], None]) -> Iterator[None]:
    """Let the running loop `call` when a signal to stop comes, before whoever handles that signal.

    uvicorn tells an application only after its last response, and a stream of events would not end by itself. Signals
    that nobody handles are left alone, and so are all of them outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    handled = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}

    def heard(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(call)
        handled[signal.Signals(number)](number, frame)

    for number in handled:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
