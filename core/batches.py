"""Calls that share a query: those that come while one is under way go together in the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key")
Found = TypeVar("Found")


class Batches(Generic[Key, Found]):
    """Asks for single keys through a function that takes up to `most`, and gives what it found by key.

    `under_way` queries run at a time: one makes them largest, two let others pass when a connection hangs.
    Every query begins after it was asked for, so whatever was committed before is seen. A failure is that of all who share
    it; a caller that is cancelled takes nothing from the others.
    """

    def __init__(
        self, ask: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Found]]], *, most: int = 64, under_way: int = 2
    ) -> None:
        self._ask = ask
        self._most = most
        self._turns = asyncio.Semaphore(under_way)
        self._wanted: dict[Key, None] = {}
        self._next: asyncio.Task[Mapping[Key, Found]] | None = None

    async def get(self, key: Key) -> Found | None:
        """What is found under `key`, None when there is nothing; raises what the query raises."""
        if self._next is None or len(self._wanted) >= self._most:
            self._wanted = {}
            self._next = asyncio.create_task(self._run(self._wanted))
            self._next.add_done_callback(_seen)
        self._wanted[key] = None
        return (await asyncio.shield(self._next)).get(key)

    async def _run(self, wanted: dict[Key, None]) -> Mapping[Key, Found]:
        async with self._turns:
            if self._wanted is wanted:
                self._next = None
            return await self._ask(list(wanted))


def _seen(task: asyncio.Task[Mapping[Key, Found]]) -> None:
    """Nobody may be left to be told of a failure."""
    if not task.cancelled():
        task.exception()
