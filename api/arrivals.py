"""Uploads that come in at this moment in one process: each fills a draft, so they are few, and one of each key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import Overloaded, UploadConflict

MOST = 32

_RETRY_SECONDS = "5"


class Arrivals:
    """The keys that are being written, `most` of them."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._keys: set[str] = set()

    @contextmanager
    def one(self, key: str) -> Iterator[None]:
        """Be the one that writes `key`.

        Raises:
            UploadConflict: somebody is writing it.
            Overloaded: enough are writing.
        """
        if key in self._keys:
            raise UploadConflict(
                "This URL is taking a file at this moment; send yours again in a moment.",
                headers={"Connection": "close", "Retry-After": _RETRY_SECONDS},
            )
        if len(self._keys) >= self._most:
            raise Overloaded(
                "Too many uploads are under way; send it again in a moment.", headers={"Connection": "close"}
            )
        self._keys.add(key)
        try:
            yield
        finally:
            self._keys.remove(key)
