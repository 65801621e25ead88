"""Calls that share a query: those that come while one is under way go together in the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key")
Found = TypeVar("Found")


class Batches(Generic[Key, Found]):
    """Asks for single keys through a function that takes up to `most`, and gives what it found by key.

    One query runs at a time, which makes them largest; one that takes longer than `patience` seconds (its connection may
    hang) lets others run beside it, one after the other. With None nothing ever does.
    Every query begins after it was asked for, so whatever was committed before is seen. A failure is that of all who share
    it; a caller that is cancelled takes nothing from the others.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Found]]],
        *,
        most: int = 64,
        patience: float | None = 0.05,
    ) -> None:
        self._ask = ask
        self._most = most
        self._patience = patience
        self._turn, self._passing = asyncio.Lock(), asyncio.Lock()
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
        turn = await self._taken_turn()
        try:
            if self._wanted is wanted:
                self._next = None
            return await self._ask(list(wanted))
        finally:
            turn.release()

    async def _taken_turn(self) -> asyncio.Lock:
        try:
            async with asyncio.timeout(self._patience if self._turn.locked() else None):
                await self._turn.acquire()
        except TimeoutError:
            await self._passing.acquire()
            return self._passing
        return self._turn


def _seen(task: asyncio.Task[Mapping[Key, Found]]) -> None:
    """Nobody may be left to be told of a failure."""
    if not task.cancelled():
        task.exception()
