"""A double of a Serve handle: calls are answered by a coroutine of the test, and what became of each is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from deployments.messages import Call, Finished, Halted, Message, Progress, Started

STARTED = Started("replica-1", "double", "sha256:00", True, 0.1)
RELEASED = datetime(2026, 1, 2, tzinfo=UTC)
Answer = Callable[[Call], AsyncIterator[Message]]


class StreamDouble:
    """What `handle.remote` gives: messages one by one, and `cancel`."""

    def __init__(self, messages: AsyncIterator[Message], call: Call) -> None:
        self.call = call
        self.cancelled = False
        self._messages = messages

    def __aiter__(self) -> StreamDouble:
        return self

    async def __anext__(self) -> Message:
        return await anext(self._messages)

    def cancel(self) -> None:
        self.cancelled = True


class HandleDouble:
    """`serve.get_app_handle` of a test; `answer` is a generator of messages."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.streams: list[StreamDouble] = []

    def __call__(self, pool: str) -> HandleDouble:
        return self

    def options(self, *, method_name: str, stream: bool) -> HandleDouble:
        assert (method_name, stream) == ("run", True)
        return self

    def remote(self, call: Call) -> StreamDouble:
        stream = StreamDouble(self.answer(call), call)
        self.streams.append(stream)
        return stream


def finished(result: Any = "made") -> Finished:
    return Finished(result, 1.5, {"seed": 7})


async def success(call: Call) -> AsyncIterator[Message]:
    """An engine of three steps."""
    yield STARTED
    for step in (1, 2, 3):
        yield Progress(step, 3)
    yield finished()


async def silence(call: Call) -> AsyncIterator[Message]:
    """A replica that is never there."""
    await asyncio.sleep(3600)
    yield STARTED


async def deaf(call: Call) -> AsyncIterator[Message]:
    """An engine that began, and is never heard of again."""
    yield STARTED
    yield Progress(1, 3)
    await asyncio.sleep(3600)


async def tireless(call: Call) -> AsyncIterator[Message]:
    """An engine that goes on whatever happens."""
    yield STARTED
    for step in range(1, 100_000):
        await asyncio.sleep(0.01)
        yield Progress(step, 100_000)


class Stoppable:
    """An engine that stops when its permit is lost; `lose` takes it."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.began = asyncio.Event()

    async def answer(self, call: Call) -> AsyncIterator[Message]:
        """The call's messages."""
        yield STARTED
        yield Progress(1, 3)
        self.began.set()
        await self.lost.wait()
        yield Halted(2, 0.7, RELEASED)
