"""Hearing of a stop before uvicorn has waited for every response."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from api.stopping import foretold


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """Signals that reached the handler which was there before."""
    found: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        found.append(number)

    before = signal.signal(signal.SIGTERM, note)
    yield found
    signal.signal(signal.SIGTERM, before)


async def test_a_signal_is_told_and_passed_on(handled: list[int]) -> None:
    told = asyncio.Event()
    with foretold(told.set):
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(told.wait(), 5)
    assert handled == [signal.SIGTERM]


async def test_afterwards_everything_is_as_it_was(handled: list[int]) -> None:
    told: list[None] = []
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with foretold(lambda: told.append(None)):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0)
    assert (handled, told) == ([signal.SIGTERM], [])


async def test_a_signal_that_nobody_handles_is_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with foretold(lambda: None):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_there_are_no_signals(handled: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def run() -> None:
        with foretold(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
