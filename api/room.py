"""Memory for the bodies of requests: so many bytes at a time in one process, and not one more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from core.errors import Overloaded

Take: TypeAlias = Callable[[int], None]
"""Claims so many more bytes; raises `Overloaded` when there are not so many left."""


class Room:
    """`most` bytes. What a request makes of its body takes about as much again, which is not counted."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    @contextmanager
    def guest(self) -> Iterator[Take]:
        """What one request may take; all of it is given back at the end of the block."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._taken + size > self._most:
                raise Overloaded(headers={"Connection": "close"})
            self._taken += size
            taken += size

        try:
            yield take
        finally:
            self._taken -= taken
