"""A judge that lets something pass proves nothing: each column, with one case planted in books that are otherwise well."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from core.ids import encode
from core.settings import PREFIX, Settings
from storage.factory import open_store
from tests.chaos.storm.books import Books
from tests.chaos.storm.ground import Json
from tests.chaos.storm.judge import Judge
from tests.chaos.storm.plan import Wish

JOB, OTHER, ACCOUNT = UUID(int=7), UUID(int=8), UUID(int=1)
POOL = "qwen-image"
NOW = 2_000_000_000.0


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + seconds, UTC)


def _line(job: UUID, at: float, fence: int = 1, pid: int = 0, pool: str = POOL, **more: object) -> Json:
    return {"job": str(job), "fence": fence, "pool": pool, "pid": pid, "at": NOW + at, **more}


@dataclass
class Storm:
    """One job that went well, as everybody wrote it down."""

    wish: Wish
    job: dict[str, Any]
    attempts: list[dict[str, Any]]
    events: list[dict[str, Any]]
    movements: list[dict[str, Any]]
    keys: dict[tuple[UUID, str], list[UUID]]
    heard: list[tuple[str, Json]]
    begins: list[Json]
    ends: list[Json]
    faults: list[Json] = field(default_factory=list)
    quarantined: dict[UUID, str] = field(default_factory=dict)

    def fails(self, code: str = "attempts_exhausted") -> None:
        """The job failed, and what was held went back."""
        self.job |= {"state": "failed", "failure": {"code": code}, "hold": "released", "outputs": []}
        self.movements[1]["kind"] = "release"
        self.events[-1]["data"] = {"status": "failed"}
        self.heard[0][1]["type"] = "job.failed"

    def judged(self) -> Json:
        """The columns that are not zero."""
        books: Any = Books(
            {JOB: self.job},
            {JOB: self.attempts},
            {JOB: self.events},
            {JOB: self.movements},
            {},
            self.keys,
            self.quarantined,
            0,
            0,
            0,
            0,
            0,
        )
        lines = {"begin": self.begins, "end": self.ends, "fault": self.faults}
        zeros = Judge(books, [self.wish], self.heard, lambda kind: lines[kind]).zeros()
        return {name: count for name, count in zeros.items() if count}


@pytest.fixture
def storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storm:
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path))
    kept = open_store(Settings(), base_url="").put(f"jobs/{JOB}/1/image.webp", b"picture", "image/webp")
    answer = encode("job", JOB)
    return Storm(
        wish=Wish("a", {}, "image", 0, 0.0, answers={answer}, prices={10}, promises={"{}"}),
        job={
            "id": JOB,
            "state": "succeeded",
            "amount": 10,
            "hold": "captured",
            "failure": None,
            "outputs": [{"key": kept.key, "sha256": kept.sha256, "bytes": kept.bytes}],
            "webhook_url": "http://hook",
            "finished_at": _at(5),
            "started_at": _at(1),
            "start_by": _at(100),
            "cancel_by": None,
            "cancel_requested_at": None,
        },
        attempts=[{"fence": 1, "started_at": _at(1), "ended_at": _at(5), "outcome": "succeeded"}],
        events=[
            {"seq": 1, "at": _at(0), "type": "state", "data": {"status": "queued"}},
            {"seq": 2, "at": _at(1), "type": "state", "data": {"status": "running"}},
            {"seq": 3, "at": _at(5), "type": "state", "data": {"status": "succeeded"}},
        ],
        movements=[{"kind": "hold", "amount": 10}, {"kind": "capture", "amount": 10}],
        keys={(ACCOUNT, "a"): [JOB]},
        heard=[("/hook", {"type": "job.succeeded", "data": {"jobId": answer}})],
        begins=[_line(JOB, 1)],
        ends=[_line(JOB, 4)],
    )


def test_what_went_well_is_zero_in_every_column(storm: Storm) -> None:
    assert storm.judged() == {}


def _twice(storm: Storm) -> None:
    storm.movements.append({"kind": "capture", "amount": 10})


def _second_run(storm: Storm) -> None:
    storm.attempts[0] |= {"outcome": "segment_ended", "ended_at": _at(2)}
    storm.attempts.append({"fence": 2, "started_at": _at(3), "ended_at": _at(5), "outcome": "succeeded"})
    for run in (storm.begins, storm.ends):
        run[:] = [_line(JOB, 1, pool="ltx-video"), _line(JOB, 3.5, 2, pool="ltx-video")]
    storm.job["outputs"][0]["key"] = storm.job["outputs"][0]["key"].replace("/1/", "/2/")
    storm.job["outputs"] = []


def _poison(storm: Storm) -> None:
    storm.wish.kind = "poison"


def _poison_failed(storm: Storm) -> None:
    storm.wish.kind = "poison"
    storm.fails()


def _alive(storm: Storm) -> None:
    storm.ends.clear()
    began = psutil.Process(os.getpid()).create_time() + 1 - NOW
    storm.begins[:] = [_line(JOB, began, pid=os.getpid())]


@pytest.mark.parametrize(
    ("plant", "column"),
    [
        (lambda storm: storm.wish.answers.add(encode("job", OTHER)), "lost"),
        (lambda storm: storm.job.update(state="running"), "notEnded"),
        (_twice, "chargedTwice"),
        (lambda storm: storm.movements[1].update(amount=11), "chargedWrongly"),
        (lambda storm: storm.wish.prices.__init__({11}), "chargedWrongly"),
        (lambda storm: storm.job["outputs"][0].update(sha256="0" * 64), "artifacts"),
        (lambda storm: storm.job["outputs"][0].update(key="jobs/x/1/gone"), "artifacts"),
        (lambda storm: storm.events[1].update(seq=3), "events"),
        (lambda storm: storm.events[1].update(at=_at(9)), "events"),
        (lambda storm: storm.heard.clear(), "webhooks"),
        (_alive, "busyReplicas"),
        (lambda storm: storm.ends[0].update(at=NOW + 5 + 14), "abandonedRuns"),
        (lambda storm: storm.attempts.append({**storm.attempts[0], "fence": 2, "started_at": _at(5)}), "lateSettles"),
        (lambda storm: storm.wish.promises.add('{"seed": 2}'), "answers"),
        (lambda storm: storm.wish.prices.add(11), "answers"),
        (lambda storm: storm.keys.update({(ACCOUNT, "a"): [OTHER]}), "answers"),
        (_poison, "poisonSucceeded"),
        (_poison_failed, "poisonNotQuarantined"),
        (lambda storm: storm.job.update(cancel_requested_at=_at(2)), "cancelsIgnored"),
        (lambda storm: storm.wish.ends.add("cancelled"), "cancelsIgnored"),
        (lambda storm: storm.job.update(cancel_by=_at(-60)), "deadlinesMissed"),
        (lambda storm: storm.job.update(start_by=_at(-60)), "deadlinesMissed"),
    ],
)
def test_each_fault_is_counted_in_its_column(storm: Storm, plant: Callable[[Storm], object], column: str) -> None:
    plant(storm)
    assert storm.judged().get(column) == 1


def test_a_first_segment_that_ran_again_is_counted(storm: Storm) -> None:
    _second_run(storm)
    assert storm.judged()["segmentsRepeated"] == 1


def test_a_run_may_go_on_while_its_process_or_the_database_stood_still(storm: Storm) -> None:
    storm.ends[0].update(at=NOW + 5 + 20, pid=9)
    assert storm.judged() == {"abandonedRuns": 1}
    storm.faults = [{"what": "replica", "how": "stop", "pids": [9], "seconds": 14.0, "at": NOW + 4}]
    assert storm.judged() == {}
    storm.faults = [{"what": "database", "how": "kill", "pids": [], "seconds": 0, "at": NOW + 4}]
    assert storm.judged() == {}


def test_poison_in_quarantine_and_poison_that_never_began_are_well(storm: Storm) -> None:
    _poison_failed(storm)
    storm.quarantined[JOB] = "3 attempts used up"
    assert storm.judged() == {}
    storm.quarantined.clear()
    storm.fails("start_timeout")
    assert storm.judged() == {}
