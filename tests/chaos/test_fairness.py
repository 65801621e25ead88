"""How a storm measures waits beside a flood: from the submit to the engine's begin."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from core.ids import encode
from tests.chaos.storm.books import Books
from tests.chaos.storm.plan import Wish
from tests.chaos.storm.storm import fairness

_Span = tuple[str, float, float, float]


def _found(*spans: _Span) -> dict[str, Any]:
    jobs: dict[UUID, Any] = {}
    wishes, begins = [], []
    for number, (kind, made, begun, ended) in enumerate(spans, start=1):
        job = UUID(int=number)
        created, finished = (datetime.fromtimestamp(1000 + each, UTC) for each in (made, ended))
        jobs[job] = {"created_at": created, "finished_at": finished}
        wishes.append(Wish(str(number), {}, kind, 0, 0.0, answers={encode("job", job)}))
        begins += [{"job": str(job), "at": 1000 + begun}, {"job": str(job), "at": 1000 + begun + 50}]
    books = Books(jobs, {}, {}, {}, {}, {}, {}, 0, 0, 0, 0, 0)
    return fairness(books, wishes, lambda kind: begins if kind == "begin" else [])


def test_a_wait_ends_with_the_first_begin_of_the_engine() -> None:
    found = _found(("alone", 0, 0.2, 1), ("flood", 9, 9.5, 11.5), ("flooded", 10, 11, 12), ("flood", 11, 60, 90))
    assert found["alone"] == pytest.approx(0.2)
    assert found["flooded"] == pytest.approx(1)
    assert found["meanService"] == pytest.approx(2), "the job that ended in the storm does not count"
    assert found["limit"] == pytest.approx(0.2 + 1.5 * 2 / found["slots"])


def test_a_job_is_beside_the_flood_when_an_earlier_one_of_that_has_not_ended() -> None:
    flood = ("flood", 0.0, 1.0, 5.0)
    assert _found(flood, ("flooded", 2, 4.9, 6))["overlapped"] == 1
    assert _found(flood, ("flooded", 2, 5.1, 6))["overlapped"] == 0
    assert _found(flood, ("flooded", 2, 4.9, 6), ("flooded", 7, 8, 9))["count"] == 2


def test_without_a_flood_there_is_no_wait_to_judge() -> None:
    found = _found(("alone", 0, 0.2, 1))
    assert (found["flooded"], found["count"]) == (None, 0)
