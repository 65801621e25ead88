"""From the death of a part to its jobs' next run, told from journals and books made by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tests.chaos.storm.books import Books
from tests.chaos.storm.ground import Json
from tests.chaos.storm.recovery import SINGLE, times

JOB = UUID(int=7)
OTHER = UUID(int=8)
VICTIM, BESIDE, DRIVER = 100, 101, 200
AT = 1000.0
POOL, LONE = "qwen-image", "rife"


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _books(state: str = "succeeded", finished: float = AT + 5) -> Books:
    job: Any = {"state": state, "finished_at": _at(finished)}
    attempts: Any = [
        {"session": f"host:{DRIVER}", "fence": 1, "started_at": _at(AT - 1), "ended_at": _at(AT + 6)},
    ]
    return Books({JOB: job}, {JOB: attempts}, {}, {}, {}, {}, {}, 0, 0, 0, 0, 0)


def _fault(what: str, how: str, at: float, *pids: int, **more: object) -> Json:
    return {"what": what, "how": how, "at": at, "pids": [*pids], "seconds": 0, **more}


def _begin(at: float, pid: int, fence: int, job: UUID = JOB, pool: str = POOL) -> Json:
    return {"at": at, "pid": pid, "job": str(job), "fence": fence, "pool": pool}


def _killed(**more: object) -> Json:
    return _fault("replica", "kill", AT, VICTIM, beside=[BESIDE], **more)


def _found(books: Books, **lines: list[Json]) -> Json:
    given = {
        "replica": [{"pid": each, "at": AT - 100} for each in (VICTIM, BESIDE)],
        "begin": [_begin(AT - 1, VICTIM, 1), _begin(AT + 1.2, BESIDE, 2)],
        **lines,
    }
    return times(books, lambda kind: given.get(kind, []))


def _counts(found: Json, row: str = "replica") -> tuple[int, int]:
    return found[row]["count"], found[row]["countAll"]


def test_a_job_of_a_killed_replica_runs_again_on_the_warm_one() -> None:
    found = _found(_books(), fault=[_killed()])
    assert _counts(found) == (1, 1)
    assert found["replica"]["p95"] == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("begins", "replicas", "ends"),
    [
        pytest.param([_begin(AT - 2, BESIDE, 1, OTHER)], [BESIDE], [], id="the other one is busy"),
        pytest.param([_begin(AT + 0.8, BESIDE, 1, OTHER)], [BESIDE], [], id="another job takes it at once"),
        pytest.param([], [], [], id="it is not ready yet"),
        pytest.param(
            [_begin(AT - 2, BESIDE, 1, OTHER)],
            [BESIDE],
            [{**_begin(AT - 1, BESIDE, 1, OTHER), "leaves": True}],
            id="it ends itself",
        ),
    ],
)
def test_without_a_warm_replica_it_was_not_alone(begins: list[Json], replicas: list[int], ends: list[Json]) -> None:
    found = _found(
        _books(),
        fault=[_killed()],
        begin=[*begins, _begin(AT - 1, VICTIM, 1), _begin(AT + 4, 103, 2)],
        replica=[{"pid": pid, "at": AT - 100} for pid in replicas],
        end=ends,
    )
    assert _counts(found) == (0, 1)


def test_a_replica_that_is_about_to_be_free_is_warm() -> None:
    busy = _begin(AT - 2, BESIDE, 1, OTHER)
    found = _found(
        _books(),
        fault=[_killed()],
        begin=[busy, _begin(AT - 1, VICTIM, 1), _begin(AT + 2, BESIDE, 2)],
        end=[{**busy, "at": AT + 0.3}],
    )
    assert _counts(found) == (1, 1)


@pytest.mark.parametrize(
    ("other", "clear"),
    [
        (_fault("head", "kill", AT - 19), 0),
        (_fault("head", "kill", AT - 21), 1),
        (_fault("ingress", "kill", AT - 1), 0),
        (_fault("ingress", "kill", AT - 3), 1),
        (_fault("dispatcher", "stop", AT - 9) | {"seconds": 8.0}, 0),
        (_fault("dispatcher", "kill", AT - 9) | {"seconds": 8.0}, 1),
        (_fault("receiver", "slow", AT - 1) | {"seconds": 9.0}, 1),
        (_fault("database", "kill", AT + 1), 0),
        (_fault("database", "kill", AT + 2), 1),
    ],
)
def test_a_fault_shortly_before_or_meanwhile_is_not_alone(other: Json, clear: int) -> None:
    assert _counts(_found(_books(), fault=[_killed(), other])) == (clear, 1)


def test_what_comes_after_the_limit_is_no_excuse() -> None:
    found = _found(
        _books(finished=AT + 30),
        fault=[_killed(), _fault("database", "kill", AT + 5)],
        begin=[_begin(AT - 1, VICTIM, 1), _begin(AT + 20, BESIDE, 2)],
    )
    assert _counts(found) == (1, 1)
    assert found["replica"]["p95"] == pytest.approx(20)


@pytest.mark.parametrize(("state", "count"), [("succeeded", 1), ("cancelled", 0), ("failed", 0)])
def test_only_a_success_counts_as_run_again_without_a_run(state: str, count: int) -> None:
    found = _found(_books(state), fault=[_killed()], begin=[_begin(AT - 1, VICTIM, 1)])
    assert _counts(found) == (count, count)


@pytest.mark.parametrize(("pool", "single"), [(POOL, 0), (LONE, 1)])
def test_jobs_of_a_killed_dispatcher_on_a_single_replica_have_a_row(pool: str, single: int) -> None:
    found = _found(
        _books(finished=AT + 12),
        fault=[_fault("dispatcher", "kill", AT, DRIVER)],
        begin=[_begin(AT - 1, VICTIM, 1, pool=pool), _begin(AT + 6.5, VICTIM, 2, pool=pool)],
    )
    assert _counts(found, "dispatcher") == (1, 1)
    assert _counts(found, SINGLE) == (single, single)
    assert found["dispatcher"]["p95"] == pytest.approx(6.5)
