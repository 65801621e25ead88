"""Was anything lost, charged wrongly, left behind? Told from the database, the store, the journal and the callers' notes."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from uuid import UUID

import psutil

from core.ids import decode
from core.settings import Settings
from jobs.permits import BLIND_SECONDS, REREAD_SECONDS
from jobs.states import FINAL
from storage import MissingObject
from storage.factory import open_store
from tests.chaos.storm.books import Books, Row, seconds
from tests.chaos.storm.engine import PATIENCE_SECONDS, STEP_LIMIT_SECONDS
from tests.chaos.storm.fleet import FIRST
from tests.chaos.storm.ground import Json
from tests.chaos.storm.plan import Wish
from tests.chaos.storm.recovery import percentile

PERMIT_SECONDS = REREAD_SECONDS + 2.0
"""How long a run without its permit may go on before the replica asks again, on a busy machine; then come a step and, when
that never ends, the engine's deadline."""

DEADLINE_SECONDS = 60.0
"""How late a deadline may come while dispatchers and the database are killed: somebody must live to see to it."""


class Judge:
    """Columns of the table; `evidence` says which jobs a column that is not zero counts."""

    def __init__(
        self,
        books: Books,
        wishes: Sequence[Wish],
        heard: Iterable[tuple[str, Json]],
        journal: Callable[[str], list[Json]],
    ) -> None:
        self._books = books
        self._wishes = wishes
        self._heard = list(heard)
        self._begins, self._ends, self._faults = journal("begin"), journal("end"), journal("fault")
        self.evidence: dict[str, list[str]] = {}

    def counts(self) -> Json:
        """What became of the jobs."""
        jobs = self._books.jobs.values()
        states = Counter(job["state"] for job in jobs)
        return {
            "accepted": len(self._books.jobs),
            "succeeded": states["succeeded"],
            "failedWithRefund": sum(job["state"] == "failed" and job["hold"] == "released" for job in jobs),
            "cancelled": states["cancelled"],
            "failures": dict(Counter(job["failure"]["code"] for job in jobs if job["failure"]).most_common()),
            "attempts": dict(
                Counter(
                    each["outcome"] for attempts in self._books.attempts.values() for each in attempts
                ).most_common()
            ),
            "kinds": dict(Counter(wish.kind for wish in self._wishes)),
            "refused": [refused for wish in self._wishes for refused in wish.refused][:10],
            "callersGaveUp": sum(wish.given_up for wish in self._wishes),
        }

    def zeros(self) -> Json:
        """What must be zero."""
        books = self._books
        found = {
            "lost": self._lost(),
            "notEnded": [str(job["id"]) for job in books.jobs.values() if job["state"] not in FINAL],
            "chargedTwice": self._moved_twice(),
            "chargedWrongly": self._charged_wrongly(),
            "artifacts": self._artifacts(),
            "events": self._events(),
            "webhooks": self._webhooks(),
            "busyReplicas": self._busy(),
            "abandonedRuns": self._abandoned(),
            "lateSettles": self._late(),
            "segmentsRepeated": self._repeated(),
            "answers": self._answers(),
            "poisonSucceeded": self._poison_succeeded(),
            "poisonNotQuarantined": self._poison_at_large(),
            "cancelsIgnored": self._cancels_ignored(),
            "deadlinesMissed": self._deadlines_missed(),
        }
        self.evidence = {name: cases for name, cases in found.items() if cases}
        return {name: len(cases) for name, cases in found.items()} | {
            "drift": books.drift,
            "brokenChains": books.broken_chains,
            "orphanedHolds": books.orphaned_holds,
            "walletsOff": books.wallets_off,
            "leftInQueue": books.in_queue,
        }

    def stops(self) -> Json:
        """Seconds from a cancel of a running job to its free engine, as replicas noted it."""
        took = [
            seconds(job["cancel_requested_at"], job["gpu_released_at"])
            for job in self._books.jobs.values()
            if job["state"] == "cancelled" and job["gpu_released_at"]
        ]
        return {
            "count": len(took),
            "p50": percentile(took, 0.5),
            "p95": percentile(took, 0.95),
            "most": percentile(took, 1),
        }

    def _lost(self) -> list[str]:
        """Answered with 202, and not there."""
        known = set(self._books.jobs)
        return [answer for wish in self._wishes for answer in wish.answers if decode("job", answer) not in known]

    def _moved_twice(self) -> list[str]:
        twice = []
        for job, movements in self._books.movements.items():
            kinds = Counter(each["kind"] for each in movements)
            if kinds["hold"] != 1 or kinds["capture"] + kinds["release"] > 1:
                twice.append(f"{job} {dict(kinds)}")
        return twice

    def _charged_wrongly(self) -> list[str]:
        wrong = []
        promised = {decode("job", answer): wish.prices for wish in self._wishes for answer in wish.answers}
        for job in self._books.jobs.values():
            moved = {each["kind"]: each["amount"] for each in self._books.movements[job["id"]]}
            due = {"hold": job["amount"]}
            if job["state"] in FINAL:
                due["capture" if job["state"] == "succeeded" else "release"] = job["amount"]
            if moved != due or promised.get(job["id"], {job["amount"]}) != {job["amount"]}:
                wrong.append(f"{job['id']} {job['state']}: {moved} and not {due}")
        return wrong

    def _artifacts(self) -> list[str]:
        store = open_store(Settings(), base_url="")
        bad = []
        for job in self._books.jobs.values():
            if job["state"] == "succeeded" and not job["outputs"]:
                bad.append(f"{job['id']} has none")
            for output in job["outputs"]:
                try:
                    content = store.read(output["key"])
                except MissingObject:
                    bad.append(f"{output['key']} is missing")
                    continue
                if hashlib.sha256(content).hexdigest() != output["sha256"] or len(content) != output["bytes"]:
                    bad.append(f"{output['key']} is something else")
        return bad

    def _events(self) -> list[str]:
        wrong = []
        for job_id, job in self._books.jobs.items():
            events = self._books.events[job_id]
            states = [each["data"]["status"] for each in events if each["type"] == "state"]
            begins = bool(states) and states[0] == "queued"
            ordered = [each["seq"] for each in events] == list(range(1, len(events) + 1))
            timed = all(earlier["at"] <= later["at"] for earlier, later in pairwise(events))
            ended = job["state"] not in FINAL or (
                events[-1]["type"] == "state" and states[-1] == job["state"] and not FINAL & set(states[:-1])
            )
            if not (begins and ordered and timed and ended):
                wrong.append(f"{job_id} begins={begins} ordered={ordered} timed={timed} ended={ended} {states}")
        return wrong

    def _webhooks(self) -> list[str]:
        told = {(notice["data"]["jobId"], notice["type"]) for _, notice in self._heard}
        known = {(decode("job", job), kind) for job, kind in told}
        return [
            str(job["id"])
            for job in self._books.jobs.values()
            if job["webhook_url"] and job["state"] in FINAL and (job["id"], f"job.{job['state']}") not in known
        ]

    def _busy(self) -> list[str]:
        """Runs that have not ended, in processes that live, of jobs that have."""
        ended = {_run(each) for each in self._ends}
        return [str(each) for each in self._begins if _run(each) not in ended and _lives(each)]

    def _abandoned(self) -> list[str]:
        """Runs that went on though their attempt had ended, longer than a permit is believed and a step takes."""
        over = {
            (str(job), attempt["fence"]): attempt["ended_at"].timestamp()
            for job, attempts in self._books.attempts.items()
            for attempt in attempts
            if attempt["ended_at"]
        }
        late = []
        for end in self._ends:
            lost = over.get((end["job"], end["fence"]))
            if lost is not None and end["at"] - lost > self._patience(end, lost):
                late.append(f"{end} went on for {end['at'] - lost:.1f} s")
        return late

    def _patience(self, end: Json, lost: float) -> float:
        """Seconds that a run may go on without its permit: longer when its process, or the database, stood still."""
        longest = PERMIT_SECONDS + STEP_LIMIT_SECONDS + PATIENCE_SECONDS
        for fault in self._faults:
            if lost - longest < fault["at"] < end["at"]:
                if fault["what"] == "database":
                    longest += BLIND_SECONDS
                elif fault["how"] == "stop" and end["pid"] in fault["pids"]:
                    longest += fault["seconds"]
        return longest

    def _late(self) -> list[str]:
        """Jobs whose result is not that of their last attempt."""
        late = []
        for job_id, job in self._books.jobs.items():
            fences = {int(output["key"].split("/")[2]) for output in job["outputs"]}
            attempts = self._books.attempts[job_id]
            if fences and fences != {attempts[-1]["fence"]}:
                late.append(f"{job_id}: outputs of {fences}, last attempt {attempts[-1]['fence']}")
            if any(
                earlier["ended_at"] is None or earlier["ended_at"] > later["started_at"]
                for earlier, later in pairwise(attempts)
            ):
                late.append(f"{job_id}: two attempts at once")
        return late

    def _repeated(self) -> list[str]:
        """First segments that ran again though they had left a checkpoint."""
        repeated = []
        for job_id, attempts in self._books.attempts.items():
            done = [each["fence"] for each in attempts if each["outcome"] == "segment_ended"]
            runs = (
                [each for each in self._begins if each["job"] == str(job_id) and each["pool"] == FIRST] if done else []
            )
            repeated += [str(run) for run in runs if run["fence"] > done[0]]
        return repeated

    def _answers(self) -> list[str]:
        """Keys whose callers were given different jobs, or another job than the record has, or prices that differ."""
        jobs: dict[str, set[UUID]] = defaultdict(set)
        for (_, key), known in self._books.keys.items():
            jobs[key] |= set(known)
        different = []
        for wish in self._wishes:
            given = {decode("job", answer) for answer in wish.answers}
            if any(len(each) > 1 for each in (given, wish.prices, wish.promises)) or (
                given and given != jobs[wish.name]
            ):
                different.append(f"{wish.name}: {wish.answers}, recorded {jobs[wish.name]}, {wish.promises}")
        return different

    def _poison_succeeded(self) -> list[str]:
        """Jobs that no engine can do and that succeeded all the same."""
        return [str(job["id"]) for job in self._poison() if job["state"] == "succeeded"]

    def _poison_at_large(self) -> list[str]:
        """Jobs that no engine can do, that used up their attempts, and that stand in no quarantine."""
        return [
            f"{job['id']} {job['failure']}"
            for job in self._poison()
            if job["state"] == "failed"
            and job["failure"]["code"] != "start_timeout"
            and not self._books.quarantined.get(job["id"])
        ]

    def _poison(self) -> list[Row]:
        found = [decode("job", each) for wish in self._wishes if wish.kind == "poison" for each in wish.answers]
        return [self._books.jobs[each] for each in found if each in self._books.jobs]

    def _cancels_ignored(self) -> list[str]:
        """Jobs that were asked to stop before their end, or were said to be cancelled, and ended otherwise."""
        said = {decode("job", answer) for wish in self._wishes if "cancelled" in wish.ends for answer in wish.answers}
        return [
            f"{job['id']} {job['state']}"
            for job in self._books.jobs.values()
            if (job["cancel_requested_at"] or job["id"] in said) and job["state"] in FINAL - {"cancelled"}
        ]

    def _deadlines_missed(self) -> list[str]:
        """Jobs that went on, or were begun, long after the caller's own deadline."""
        missed = []
        for job in self._books.jobs.values():
            ended, started = job["finished_at"], job["started_at"]
            if ended and job["cancel_by"] and seconds(job["cancel_by"], ended) > DEADLINE_SECONDS:
                missed.append(f"{job['id']} ended {seconds(job['cancel_by'], ended):.0f} s after its deadline")
            if started and seconds(job["start_by"], started) > DEADLINE_SECONDS:
                missed.append(f"{job['id']} began {seconds(job['start_by'], started):.0f} s after its deadline")
        return missed


def _run(entry: Json) -> tuple[str, int, str]:
    return entry["job"], entry["fence"], entry["pool"]


def _lives(entry: Json) -> bool:
    """Whether the process that wrote it still runs; another one may have got its pid."""
    try:
        return psutil.Process(entry["pid"]).create_time() < float(entry["at"])
    except psutil.NoSuchProcess:
        return False
