"""What costs a look, found by one caller at a time and told to whoever asks soon after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

FRESH_SECONDS = 1.0

T = TypeVar("T")


class Look(Generic[T]):
    """The last that was found, for `FRESH_SECONDS`."""

    def __init__(self) -> None:
        self._asking = asyncio.Lock()
        self._found: T | None = None
        self._until = 0.0

    async def get(self, find: Callable[[], Awaitable[T]]) -> T:
        """What `find` gives, or gave a moment ago. A failure of it is nobody's but its caller's."""
        async with self._asking:
            if self._found is None or time.monotonic() >= self._until:
                self._found = await find()
                self._until = time.monotonic() + FRESH_SECONDS
            return self._found
