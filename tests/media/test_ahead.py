from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from media.ahead import ahead


def test_it_gives_what_it_was_given_in_order() -> None:
    with ahead(range(1000), 3) as items:
        assert list(items) == [*range(1000)]


def test_it_works_no_further_ahead_than_told() -> None:
    made: list[int] = []
    five = threading.Event()

    def slow() -> Iterator[int]:
        for item in range(100):
            made.append(item)
            if item == 5:
                five.set()
            yield item

    with ahead(slow(), 4) as items:
        assert next(items) == 0
        assert five.wait(10)
        assert len(made) <= 6
    assert len(made) <= 7


def test_what_making_an_item_raises_reaches_the_reader_after_the_items_before() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise LookupError("no second")

    with ahead(failing(), 8) as items:
        assert next(items) == 1
        with pytest.raises(LookupError, match="no second"):
            next(items)


def test_a_reader_that_leaves_ends_the_thread_and_closes_the_generator() -> None:
    closed: list[str] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.current_thread().name)

    before = threading.active_count()

    def leave() -> None:
        with ahead(endless(), 2) as items:
            next(items)
            raise LookupError

    with pytest.raises(LookupError):
        leave()
    assert threading.active_count() == before
    assert closed == ["ahead"]
