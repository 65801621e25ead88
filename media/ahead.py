"""An iterator that works ahead of its reader, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")

_LOOK_SECONDS = 0.05


class _End:
    def __init__(self, problem: BaseException | None) -> None:
        self.problem = problem


@contextmanager
def ahead(items: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """`items`, each made by a thread up to `depth` before it is asked for; what making one raises is raised to the reader.

    At the end of the block the thread has ended, and so has the generator that it drew from.
    """
    queue: Queue[T | _End] = Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, queue, stopped), name="ahead", daemon=True)
    thread.start()
    try:
        yield _drawn(queue)
    finally:
        stopped.set()
        thread.join()


def _fill(items: Iterable[T], queue: Queue[T | _End], stopped: threading.Event) -> None:
    problem = None
    try:
        for item in items:
            if not _put(item, queue, stopped):
                break
    except BaseException as raised:  # noqa: BLE001
        problem = raised
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
    _put(_End(problem), queue, stopped)


def _put(item: T | _End, queue: Queue[T | _End], stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            queue.put(item, timeout=_LOOK_SECONDS)
        except Full:
            continue
        return True
    return False


def _drawn(queue: Queue[T | _End]) -> Iterator[T]:
    while True:
        try:
            item = queue.get(timeout=1)
        except Empty:
            continue
        if isinstance(item, _End):
            if item.problem is not None:
                raise item.problem
            return
        yield item
