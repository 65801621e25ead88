"""Memory for the bodies of requests: so many bytes at a time in one process, and not one more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import Overloaded


class Room:
    """`most` bytes. What a request makes of its body takes about as much again, which is not counted."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    @contextmanager
    def guest(self) -> Iterator[Guest]:
        """What one request takes, until it leaves or the block ends."""
        guest = Guest(self)
        try:
            yield guest
        finally:
            guest.leave()


class Guest:
    """One request's share of a room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._taken = 0

    def take(self, size: int) -> None:
        """Claim so many more bytes.

        Raises:
            Overloaded: there are not so many left.
        """
        if self._room.taken + size > self._room.most:
            raise Overloaded(headers={"Connection": "close"})
        self._room.taken += size
        self._taken += size

    def leave(self) -> None:
        """Give everything back, though the request may go on; again is fine."""
        self._room.taken -= self._taken
        self._taken = 0
