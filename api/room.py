"""Memory for the bodies of requests: so many bytes at a time in one process, of which no account may fill it all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from core.errors import Overloaded

FREE_BYTES = 1 << 16
"""The first bytes of a body, which cost nothing: whoever fills the room keeps no small request out."""


class Room:
    """`most` bytes, `each` of them for one account. What a request makes of its body takes about as much again, which is
    not counted."""

    def __init__(self, most: int, each: int) -> None:
        self.most = most
        self.each = each
        self.taken = 0
        self.by_account: Counter[UUID | None] = Counter()

    @contextmanager
    def guest(self, account: UUID | None) -> Iterator[Guest]:
        """What one request of `account` takes, until it leaves or the block ends."""
        guest = Guest(self, account)
        try:
            yield guest
        finally:
            guest.leave()


class Guest:
    """One request's share of a room."""

    def __init__(self, room: Room, account: UUID | None = None) -> None:
        self._room = room
        self._account = account
        self._free = FREE_BYTES
        self._taken = 0

    def take(self, size: int) -> None:
        """Claim so many more bytes.

        Raises:
            Overloaded: there are not so many left, or not for this account.
        """
        free = min(size, self._free)
        room, counted = self._room, size - free
        self._free -= free
        if not counted:
            return
        if room.by_account[self._account] + counted > room.each:
            raise Overloaded(
                "This account has too many large requests under way; send fewer at a time, or large media by upload.",
                headers={"Connection": "close"},
            )
        if room.taken + counted > room.most:
            raise Overloaded(headers={"Connection": "close"})
        self._taken += counted
        room.taken += counted
        room.by_account[self._account] += counted

    def leave(self) -> None:
        """Give everything back, though the request may go on; again is fine."""
        if not self._taken:
            return
        room = self._room
        room.taken -= self._taken
        room.by_account[self._account] -= self._taken
        if not room.by_account[self._account]:
            del room.by_account[self._account]
        self._taken = 0
