"""A stored object read forward in pieces, each a request of its own: a slow reader keeps no connection waiting."""

from __future__ import annotations

from contextlib import closing

from storage.base import MissingObject, Store

PIECE_BYTES = 8 << 20


class Pieces:
    """The object under `key` as a readable; one piece of it is held."""

    def __init__(self, store: Store, key: str, piece_bytes: int = PIECE_BYTES) -> None:
        """At its beginning.

        Raises:
            MissingObject: nothing is there.
            StoreUnavailable: the store fails; reading may raise both, too.
        """
        found = store.stat(key)
        if found is None:
            raise MissingObject(key)
        self._store = store
        self._key = key
        self._size = found.bytes
        self._piece_bytes = piece_bytes
        self._piece = b""
        self._at = self._next = 0

    def read(self, size: int, /) -> bytes:
        """The next bytes, `size` at most; none at the end."""
        if self._at == len(self._piece) and self._next < self._size:
            stop = min(self._next + self._piece_bytes, self._size)
            with closing(self._store.open_range(self._key, self._next, stop)) as source:
                self._piece = source.read()
            self._at, self._next = 0, stop
        taken = self._piece[self._at : self._at + size]
        self._at += len(taken)
        return taken
