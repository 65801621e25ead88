"""How long it took: from the death of a part to the moment its jobs ran again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from tests.chaos.storm.books import Books
from tests.chaos.storm.fleet import IMAGES
from tests.chaos.storm.ground import Json

LIMITS = {"replica": 3.0, "dispatcher": 8.0, "node": 10.0}
"""Seconds: a warm replica is there; a session's expiry and two more; a node's."""

_OTHERS = {"head", "database", "controller", "node", "store", "redeploy", "stall"}
_SHADOW_SECONDS = 20.0
_WARM_POOL = "qwen-image"

assert IMAGES > 1


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value at that share of the sorted ones (nearest rank), None without any."""
    ranked = sorted(values)
    return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 3) if ranked else None


def times(books: Books, faults: Iterable[Json], begins: Sequence[Json], ends: Sequence[Json]) -> Json:
    """p50 and p95 in seconds by what was killed: `all` that were, and `clear` of what else happened around then."""
    faults = list(faults)
    runs: dict[str, list[Json]] = defaultdict(list)
    for run in begins:
        runs[run["job"]].append(run)
    ended = {(each["job"], each["fence"], each["pool"]): each["at"] for each in ends}
    found: Json = {}
    for what, limit in LIMITS.items():
        every, clear = [], []
        for fault in faults:
            if fault["what"] != what or fault["how"] != "kill":
                continue
            for job, pool in _hit(books, fault, begins, ended):
                back = _back(books, job, fault["at"], runs)
                if back is None:
                    continue
                took = back - fault["at"]
                every.append(took)
                if _clear(faults, fault, back) and (what != "replica" or pool == _WARM_POOL):
                    clear.append(took)
        found[what] = {"limit": limit} | {
            f"{name}{suffix}": value
            for suffix, values in (("", clear), ("All", every))
            for name, value in (
                ("count", len(values)),
                ("p50", percentile(values, 0.5)),
                ("p95", percentile(values, 0.95)),
                ("most", percentile(values, 1)),
            )
        }
    return found


def _hit(
    books: Books, fault: Json, begins: Sequence[Json], ended: dict[tuple[str, int, str], float]
) -> list[tuple[str, str]]:
    """Jobs that ran, or were driven, in one of the processes killed, and the pool if an engine had them."""
    at, pids = fault["at"], set(fault["pids"])
    hit = {
        run["job"]: run["pool"]
        for run in begins
        if run["pid"] in pids and run["at"] < at < ended.get((run["job"], run["fence"], run["pool"]), at + 1)
    }
    if fault["what"] != "replica":
        for job, attempts in books.attempts.items():
            for attempt in attempts:
                over = attempt["ended_at"].timestamp() if attempt["ended_at"] else at + 1
                if int(attempt["session"].rpartition(":")[2]) in pids and attempt["started_at"].timestamp() < at < over:
                    hit.setdefault(str(job), "")
    return list(hit.items())


def _back(books: Books, job: str, at: float, runs: dict[str, list[Json]]) -> float | None:
    """When the job's engine began again, or the job ended without it."""
    again = [run["at"] for run in runs[job] if run["at"] > at]
    record = books.jobs.get(UUID(job))
    if record is not None and record["finished_at"] is not None:
        again.append(record["finished_at"].timestamp())
    return min((each for each in again if each > at), default=None)


def _clear(faults: Sequence[Json], fault: Json, back: float) -> bool:
    """Nothing else that holds up every job happened shortly before or meanwhile."""
    return not any(
        (
            other is not fault
            and (other["what"] in _OTHERS or (other["what"], other["how"]) == ("dispatcher", "stop"))
            and fault["at"] - _SHADOW_SECONDS < other["at"] < back
        )
        or (other is not fault and other["what"] in (fault["what"], "dispatcher") and fault["at"] < other["at"] < back)
        for other in faults
    )
