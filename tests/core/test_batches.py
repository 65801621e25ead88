from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from core.batches import Batches


class Table:
    """Numbers by word, looked up when `answer` lets them; `asked` has every look-up."""

    def __init__(self) -> None:
        self.rows = {"one": 1, "two": 2, "three": 3}
        self.asked: list[list[str]] = []
        self.answer = asyncio.Event()
        self.failure: Exception | None = None
        self.batches: Batches[str, int] = Batches(self.look_up)

    async def look_up(self, words: Sequence[str]) -> dict[str, int]:
        self.asked.append(sorted(words))
        seen = dict(self.rows)
        await self.answer.wait()
        if self.failure is not None:
            raise self.failure
        return {word: seen[word] for word in words if word in seen}

    async def begin(self, *words: str) -> list[asyncio.Task[int | None]]:
        """Ask for these at once, and let it come as far as it can."""
        tasks = [asyncio.create_task(self.batches.get(word)) for word in words]
        for _ in range(5):
            await asyncio.sleep(0)
        return tasks


@pytest.fixture
async def table() -> Table:
    return Table()


async def busy(table: Table) -> list[asyncio.Task[int | None]]:
    """A look-up under way."""
    return await table.begin("one")


async def test_one_alone_is_looked_up_at_once(table: Table) -> None:
    table.answer.set()
    assert await table.batches.get("one") == 1
    assert await table.batches.get("four") is None
    assert table.asked == [["one"], ["four"]]


async def test_those_that_come_meanwhile_share_the_next(table: Table) -> None:
    first = await busy(table)
    later = await table.begin("one", "two", "two", "four")
    assert table.asked == [["one"]]
    table.answer.set()
    assert await asyncio.gather(*first, *later) == [1, 1, 2, 2, None]
    assert table.asked == [["one"], ["four", "one", "two"]]


async def test_one_that_hangs_lets_others_pass_one_after_the_other(table: Table) -> None:
    table.batches = Batches(table.look_up, patience=0.01)
    tasks = await table.begin("one")
    for word in ("two", "three"):
        tasks += await table.begin(word)
        await asyncio.sleep(0.05)
    assert table.asked == [["one"], ["two"]]
    table.answer.set()
    assert await asyncio.gather(*tasks) == [1, 2, 3]
    assert table.asked == [["one"], ["two"], ["three"]]
    assert await table.batches.get("four") is None, "both turns are free again"


async def test_without_an_end_of_patience_nothing_passes(table: Table) -> None:
    table.batches = Batches(table.look_up, patience=None)
    tasks = [*await table.begin("one"), *await table.begin("two"), *await table.begin("three")]
    await asyncio.sleep(0.1)
    assert table.asked == [["one"]]
    table.answer.set()
    assert await asyncio.gather(*tasks) == [1, 2, 3]
    assert table.asked == [["one"], ["three", "two"]]


async def test_a_look_up_takes_64_keys_at_most(table: Table) -> None:
    first = await busy(table)
    later = await table.begin(*(f"word-{number:03}" for number in range(150)))
    table.answer.set()
    assert await asyncio.gather(*first, *later) == [1, *[None] * 150]
    assert [len(asked) for asked in table.asked] == [1, 64, 64, 22]


async def test_what_changed_before_it_was_asked_for_is_seen(table: Table) -> None:
    first = await busy(table)
    table.rows["one"] = 11
    later = await table.begin("one")
    table.answer.set()
    assert await asyncio.gather(*first, *later) == [1, 11]


async def test_a_failure_is_shared_and_does_not_last(table: Table) -> None:
    first = await busy(table)
    table.failure = OSError("away")
    later = await table.begin("one", "two")
    table.answer.set()
    got = await asyncio.gather(*first, *later, return_exceptions=True)
    assert [str(each) for each in got] == ["away"] * 3
    table.failure = None
    assert await table.batches.get("three") == 3


async def test_a_caller_that_goes_takes_nothing_from_the_others(table: Table) -> None:
    one, two = await table.begin("one", "two")
    one.cancel()
    table.answer.set()
    assert await two == 2
    assert await table.batches.get("one") == 1


async def test_a_failure_that_nobody_waits_for_is_no_noise(table: Table) -> None:
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    (one,) = await table.begin("one")
    one.cancel()
    table.failure = OSError("away")
    table.answer.set()
    table.failure, failed = OSError("away"), await table.begin("two")
    with pytest.raises(OSError, match="away"):
        await failed[0]
    assert noise == []
