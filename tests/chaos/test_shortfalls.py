"""A storm that was none is not passed: each promise broken in a report that is otherwise well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.storm.faults import drawn
from tests.chaos.storm.ground import Json
from tests.chaos.storm.recovery import LIMITS, SINGLE
from tests.chaos.storm.shortfalls import shortfalls
from tests.chaos.storm.size import FULL, SHORT, Size


def _report(size: Size) -> Json:
    deck = drawn(1, size.faults)
    row = {"count": 40, "p50": 1.0, "p95": 2.9, "most": 4.0}
    return {
        "seconds": 1100.0,
        "faults": {kind: deck.count(kind) for kind in deck},
        "jobs": {"accepted": size.jobs, "refused": []},
        "callers": {"stayed": size.jobs, "answered": size.jobs, "vanished": 3},
        "recovery": {name: {"limit": limit, **row} for name, limit in {**LIMITS, SINGLE: 8.0}.items()},
        "fairness": {"alone": 0.2, "flooded": 0.3, "limit": 0.4, "count": 15, "overlapped": 15},
    }


@pytest.mark.parametrize("size", [FULL, SHORT])
def test_a_storm_as_planned_has_none(size: Size) -> None:
    assert shortfalls(size, _report(size)) == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda report: report["jobs"].update(accepted=1939), "1939 jobs accepted of 2000"),
        (lambda report: report["callers"].update(answered=1900), "1900 callers answered of 2000"),
        (lambda report: report["jobs"].update(refused=["400 no"]), "jobs refused: 400 no"),
        (lambda report: report["faults"].update({"replica kill": 50}), "196 faults done, 200 are due"),
        (lambda report: report["faults"].update({"ingress kill": 20}), "138 kills"),
        (lambda report: report["faults"].update({"head kill": 2}), "2 heads killed, 3 are due"),
        (lambda report: report["faults"].pop("dispatcher stall"), "no dispatcher stall"),
        (lambda report: report.update(seconds=1201.0), "took 1201 s"),
        (lambda report: report["recovery"]["replica"].update(p95=3.1), "replica: p95 of 3.10 s"),
        (lambda report: report["recovery"][SINGLE].update(p95=8.1), "dispatcherSingle: p95 of 8.10 s"),
        (lambda report: report["fairness"].update(flooded=0.41), "p50 wait of 0.41 s beside a flood"),
        (lambda report: report["fairness"].update(flooded=None), "no waits beside a flood"),
        (lambda report: report["fairness"].update(overlapped=9), "the flood was over for 6 of 15"),
    ],
)
def test_each_broken_promise_is_said(spoil: Callable[[Json], object], says: str) -> None:
    report = _report(FULL)
    spoil(report)
    assert any(each.startswith(says) for each in shortfalls(FULL, report)), shortfalls(FULL, report)


def test_a_few_times_are_not_judged_and_chosen_faults_owe_no_kills() -> None:
    report = _report(SHORT)
    report["recovery"]["replica"] |= {"count": 4, "p95": 9.0}
    report["fairness"] |= {"count": 5, "overlapped": 5, "flooded": 9.0}
    assert shortfalls(SHORT, report) == []
    report["faults"] = {"redeploy": SHORT.faults}
    assert shortfalls(replace(SHORT, only=("redeploy",)), report) == []
    assert shortfalls(SHORT, report) != []
