"""How long it took: from the death of a part to the moment its jobs ran again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from tests.chaos.storm.books import Books
from tests.chaos.storm.fleet import IMAGES
from tests.chaos.storm.ground import Json

LIMITS = {"replica": 3.0, "dispatcher": 8.0, "node": 10.0}
"""Seconds: a warm replica is there; a session's expiry and two more; a node's."""
SINGLE = "dispatcherSingle"
"""The row of jobs whose dispatcher was killed while the only replica of their pool had them."""
ROWS = (*LIMITS, SINGLE)

_SHADOWS = {"head": 20.0, "node": 20.0, "redeploy": 20.0, "controller": 15.0, "database": 15.0, "stall": 7.0}
"""Seconds for which each holds up every job, from when it is over."""
_DISPATCHER_SHADOW = 8.0
_SHADOW = 2.0
_MANY_REPLICAS = "qwen-image"
_LOADED_SECONDS = 3.0
"""So long after it is ready, everybody knows of a replica."""
_SOON_SECONDS, _FREE_SECONDS = 0.5, 1.0
"""A warm replica is free from so soon after a kill on, and for so long, unless the job itself takes it."""

assert IMAGES > 1


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value at that share of the sorted ones (nearest rank), None without any."""
    ranked = sorted(values)
    return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 3) if ranked else None


def times(books: Books, journal: Callable[[str], list[Json]]) -> Json:
    """p50 and p95 in seconds by what was killed: `All` that were, and those alone, clear of what else happened then.

    After the kill of a replica alone, another one of its pool is ready and free: a warm one.
    """
    faults, begins, ends = journal("fault"), journal("begin"), journal("end")
    runs: dict[str, list[Json]] = defaultdict(list)
    for run in begins:
        runs[run["job"]].append(run)
    ended = {(each["job"], each["fence"], each["pool"]): each["at"] for each in ends}
    engines = Engines(journal("replica"), begins, ends)
    every: dict[str, list[float]] = {row: [] for row in ROWS}
    alone: dict[str, list[float]] = {row: [] for row in ROWS}
    for fault in faults:
        if fault["what"] not in LIMITS or fault["how"] != "kill":
            continue
        for job, pool in _hit(books, fault, begins, ended):
            back = _back(books, job, fault["at"], runs)
            if back is None:
                continue
            clear = _clear(faults, fault, back) and (fault["what"] != "replica" or engines.warm(fault, job))
            rows = [fault["what"]]
            if fault["what"] == "dispatcher" and pool not in ("", _MANY_REPLICAS):
                rows.append(SINGLE)
            for row in rows:
                every[row].append(back - fault["at"])
                if clear:
                    alone[row].append(back - fault["at"])
    return {row: {"limit": _limit(row), **_summed(alone[row], ""), **_summed(every[row], "All")} for row in ROWS}


class Engines:
    """Which replicas were ready, and when their engines were free."""

    def __init__(self, ready: Iterable[Json], begins: Iterable[Json], ends: Iterable[Json]) -> None:
        self._ready = {each["pid"]: each["at"] for each in ready}
        self._leaves = {each["pid"]: each["at"] for each in ends if each.get("leaves")}
        over = {(each["job"], each["fence"], each["pool"], each["pid"]): each["at"] for each in ends}
        self._runs: dict[int, list[tuple[float, float, str]]] = defaultdict(list)
        for run in begins:
            key = run["job"], run["fence"], run["pool"], run["pid"]
            self._runs[run["pid"]].append((run["at"], over.get(key, float("inf")), run["job"]))

    def warm(self, fault: Json, job: str) -> bool:
        """Whether another replica of the killed one's pool was ready, and free for the job in the second after."""
        return any(self._free(pid, fault["at"], job) for pid in fault.get("beside", ()))

    def _free(self, pid: int, at: float, job: str) -> bool:
        if self._ready.get(pid, at) > at - _LOADED_SECONDS or self._leaves.get(pid, float("inf")) < at + _SOON_SECONDS:
            return False
        soon = at + _SOON_SECONDS
        return not any(
            begin < soon + _FREE_SECONDS and end > soon and not (whose == job and begin > at)
            for begin, end, whose in self._runs[pid]
        )


def _limit(row: str) -> float:
    return LIMITS["dispatcher" if row == SINGLE else row]


def _summed(values: Sequence[float], suffix: str) -> Json:
    return {
        f"count{suffix}": len(values),
        f"p50{suffix}": percentile(values, 0.5),
        f"p95{suffix}": percentile(values, 0.95),
        f"most{suffix}": percentile(values, 1),
    }


def _hit(
    books: Books, fault: Json, begins: Sequence[Json], ended: dict[tuple[str, int, str], float]
) -> list[tuple[str, str]]:
    """Jobs that ran, or were driven, in one of the processes killed, and the pool if an engine had them."""
    at, pids = fault["at"], set(fault["pids"])
    running = {
        run["job"]: run for run in begins if run["at"] < at < ended.get((run["job"], run["fence"], run["pool"]), at + 1)
    }
    hit = {job: run["pool"] for job, run in running.items() if run["pid"] in pids}
    if fault["what"] != "replica":
        for job, attempts in books.attempts.items():
            for attempt in attempts:
                over = attempt["ended_at"].timestamp() if attempt["ended_at"] else at + 1
                if int(attempt["session"].rpartition(":")[2]) in pids and attempt["started_at"].timestamp() < at < over:
                    run = running.get(str(job))
                    has = run is not None and run["fence"] == attempt["fence"]
                    hit.setdefault(str(job), run["pool"] if run is not None and has else "")
    return list(hit.items())


def _back(books: Books, job: str, at: float, runs: dict[str, list[Json]]) -> float | None:
    """When the job's engine began again, or the job succeeded without that; None: neither, it was cancelled or failed."""
    again = [run["at"] for run in runs[job] if run["at"] > at]
    record = books.jobs.get(UUID(job))
    if record is not None and record["state"] == "succeeded" and record["finished_at"].timestamp() > at:
        again.append(record["finished_at"].timestamp())
    return min(again, default=None)


def _clear(faults: Sequence[Json], fault: Json, back: float) -> bool:
    """Nothing else held up jobs then, and nothing that could came meanwhile.

    What comes only after the limit is no excuse: it was late already.
    """
    at, late = fault["at"], min(back, fault["at"] + LIMITS[fault["what"]])
    for other in faults:
        if other is fault or other["what"] == "receiver":
            continue
        lasted = 0.0 if other["how"] == "kill" else other.get("seconds", 0.0)
        if other["at"] <= at < other["at"] + lasted + _shadow(other):
            return False
        grave = other["what"] in _SHADOWS or other["what"] in (fault["what"], "dispatcher", "store")
        if grave and at < other["at"] < late:
            return False
    return True


def _shadow(fault: Json) -> float:
    if (fault["what"], fault["how"]) == ("dispatcher", "kill"):
        return _DISPATCHER_SHADOW
    return _SHADOWS.get(fault["what"], _SHADOW)
