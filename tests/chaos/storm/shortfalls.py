"""Was the storm one? What it promised and did not do: fewer jobs or faults than asked for, answers that came too late."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.storm.faults import ESSENTIAL, KILLS
from tests.chaos.storm.ground import Json
from tests.chaos.storm.size import FULL, Size

MOST_SECONDS = 1200.0
ANSWERED_SHARE = 0.97
DONE_SHARE, DONE_ENOUGH = 0.88, 200
KILLED_SHARE, KILLED_SHARE_SMALL = 0.62, 0.5
HEADS = 3
JUDGED_COUNT = 5
"""Fewer recoveries than this have no percentile worth the name."""
JUDGED_WAITS = 10
"""Nor have fewer waits beside a flood a middle: those of a short storm are only shown."""


def shortfalls(size: Size, report: Json) -> list[str]:
    """Each as a sentence."""
    return [*_load(size, report), *_blows(size, report["faults"]), *_times(report)]


def _load(size: Size, report: Json) -> Iterator[str]:
    jobs, callers = report["jobs"], report["callers"]
    if jobs["accepted"] < size.jobs * ANSWERED_SHARE:
        yield f"{jobs['accepted']} jobs accepted of {size.jobs}"
    if callers["answered"] < callers["stayed"] * ANSWERED_SHARE:
        yield f"{callers['answered']} callers answered of {callers['stayed']}"
    if jobs["refused"]:
        yield f"jobs refused: {jobs['refused'][0]}"


def _blows(size: Size, done: Json) -> Iterator[str]:
    large = size.faults >= FULL.faults
    total, enough = sum(done.values()), min(DONE_ENOUGH, int(DONE_SHARE * size.faults))
    if total < enough:
        yield f"{total} faults done, {enough} are due"
    if size.only:
        return
    kills = sum(done.get(kind, 0) for kind in KILLS)
    due = int(size.faults * (KILLED_SHARE if large else KILLED_SHARE_SMALL))
    if kills < due:
        yield f"{kills} kills of {', '.join(KILLS)}, {due} are due"
    if large and done.get("head kill", 0) < HEADS:
        yield f"{done.get('head kill', 0)} heads killed, {HEADS} are due"
    yield from (f"no {fault}" for fault in ESSENTIAL if size.faults >= len(ESSENTIAL) and not done.get(fault))


def _times(report: Json) -> Iterator[str]:
    if report["seconds"] > MOST_SECONDS:
        yield f"took {report['seconds']:.0f} s, more than {MOST_SECONDS:.0f}"
    for what, found in report["recovery"].items():
        if found["count"] >= JUDGED_COUNT and found["p95"] > found["limit"]:
            yield f"{what}: p95 of {found['p95']:.2f} s until jobs ran again, {found['limit']:g} at most"
    fair = report["fairness"]
    if fair["flooded"] is None or fair["limit"] is None:
        yield "no waits beside a flood"
    else:
        if fair["count"] >= JUDGED_WAITS and fair["flooded"] > fair["limit"]:
            yield f"p50 wait of {fair['flooded']:.2f} s beside a flood, {fair['limit']:.2f} at most"
        if fair["overlapped"] < fair["count"]:
            yield f"the flood was over for {fair['count'] - fair['overlapped']} of {fair['count']} jobs beside it"
