"""What happened a moment ago: few things, and not for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Lately(Generic[T]):
    """What was noted less than `seconds` ago; of more than `most`, the oldest are forgotten."""

    def __init__(self, seconds: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._until: dict[T, float] = {}

    def note(self, what: T) -> None:
        """It happened now."""
        self._until.pop(what, None)
        self._until[what] = self._clock() + self._seconds
        if len(self._until) > self._most:
            del self._until[next(iter(self._until))]

    def __contains__(self, what: T) -> bool:
        until = self._until.get(what)
        return until is not None and self._clock() < until
