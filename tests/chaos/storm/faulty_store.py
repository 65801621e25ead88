"""The store of a storm: the real one of the settings, with faults as `told("store")` says at that moment.

`refusing`: every call fails. `slow`: every call takes a second more. `half-written`: a put writes half of its content and
then its process dies. `full`: a put writes half of its content and then the disk has no room.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from core.settings import Settings
from storage import factory
from storage.base import Artifact, Store, StoreUnavailable, disk_faults, open_source
from tests.chaos.storm.ground import note, told

MODES = ("refusing", "slow", "half-written", "full")
SLOW_SECONDS = 1.0
_REACHES_OUT = frozenset({"draft", "read", "open", "open_range", "stat", "delete", "delete_prefix"})


def mode() -> str | None:
    """What is wrong with the store now."""
    found = told("store")
    return found["mode"] if found and time.time() < found["until"] else None


class FaultyStore:
    """A store around a store; what it does not do itself, the inner one does."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name in _REACHES_OUT:
            self._trouble(name)
        return getattr(self._inner, name)

    def put(self, key: str, data: bytes | Path | BinaryIO, mime_type: str, *, once: bool = False) -> Artifact:
        """See `Store.put`."""
        self._trouble("put")
        wrong = mode()
        if wrong not in ("half-written", "full"):
            return self._inner.put(key, data, mime_type, once=once)
        note("store", what=wrong, key=key)
        with open_source(data) as source, closing(self._inner.draft(key, mime_type)) as draft:
            content = source.read()
            draft.write(content[: len(content) // 2])
            if wrong == "half-written":
                os._exit(1)
            with disk_faults():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise AssertionError

    def _trouble(self, name: str) -> None:
        wrong = mode()
        if wrong == "slow":
            note("store", what=wrong, call=name)
            time.sleep(SLOW_SECONDS)
        elif wrong == "refusing":
            note("store", what=wrong, call=name)
            raise StoreUnavailable("SlowDown", "try again later")


_open_store = factory.open_store


def open_faulty(settings: Settings, base_url: str) -> Any:
    """`open_store` with faults."""
    return FaultyStore(_open_store(settings, base_url))
