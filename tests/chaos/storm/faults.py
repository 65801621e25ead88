"""What goes wrong, drawn from the seed: which fault, when, and how each is done to a running service."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import psutil

from core.database import UNAVAILABLE
from tests.chaos.storm import faulty_store, receiver
from tests.chaos.storm.cluster import DRAINS, Node
from tests.chaos.storm.ground import journal, note, tell
from tests.chaos.storm.processes import alive, below, send, titled
from tests.chaos.storm.service import Service

DECK: dict[str, int] = {
    "replica kill": 82,
    "dispatcher kill": 36,
    "ingress kill": 32,
    "replica stop": 7,
    "dispatcher stop": 10,
    "dispatcher stall": 12,
    "ingress stop": 4,
    "node kill": 5,
    "node stop": 3,
    "controller kill": 5,
    "controller stop": 2,
    "head kill": 4,
    "head stop": 2,
    "database restart": 2,
    "database kill": 3,
    **{f"store {mode}": 1 for mode in faulty_store.MODES},
    **{f"receiver {mode}": 1 for mode in receiver.MODES},
    "node drain": 2,
    "redeploy": 2,
    "clock jump": 4,
    "background kill": 3,
}
"""How many of each in a storm of 228."""

KILLS = ("replica kill", "dispatcher kill", "ingress kill")
HEAVY = {
    "node kill": 6.0,
    "node stop": 4.0,
    "controller kill": 3.0,
    "head kill": 10.0,
    "head stop": 3.0,
    "database restart": 6.0,
    "database kill": 6.0,
    "node drain": 6.0,
    "redeploy": 4.0,
}
"""Seconds that the storm waits after these, so that the next one meets a service and not its ruins."""

STALL_SECONDS = 9.0
_SETTLES_WITHIN_SECONDS = 5.0
_DRAIN_SECONDS = "15"
_LATE_SECONDS = 0.5
"""What a process began within a fault's time may be noted so much later."""

_TOLD = ("store", "receiver")

ESSENTIAL = (
    "replica kill",
    "dispatcher kill",
    "ingress kill",
    "dispatcher stall",
    "replica stop",
    "head kill",
    "node kill",
)


def drawn(seed: int, number: int) -> list[str]:
    """So many faults in their order; each essential kind is among them when there is room."""
    dice = random.Random(seed ^ 0xFA17)
    total = sum(DECK.values())
    counts = {kind: number * share // total for kind, share in DECK.items()}
    rest = [kind for kind, share in DECK.items() if counts[kind] == 0 and kind not in ESSENTIAL]
    dice.shuffle(rest)
    for kind in (*(each for each in ESSENTIAL if counts[each] == 0), *rest):
        if sum(counts.values()) < number:
            counts[kind] += 1
    while sum(counts.values()) < number:
        counts[dice.choices(KILLS, [3, 1, 1])[0]] += 1
    deck = [kind for kind, count in counts.items() for _ in range(count)]
    dice.shuffle(deck)
    return deck


def pool_of(title: str) -> str:
    """The pool of a replica's process, by its title; "" when it is none, or gone."""
    return "".join(title.split(":")[3:4])


def _goes(process: psutil.Process) -> bool:
    """Whether it lives and is not stopped."""
    try:
        return alive(process) and process.status() != psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


class Faults:
    """Does them, one at a time, in the calling thread; `wake` may be called from another one.

    Made in the event loop's thread, and used in others.
    """

    def __init__(self, service: Service, seed: int) -> None:
        self._service = service
        self._dice = random.Random(seed ^ 0xD1CE)
        self._stopped: list[tuple[float, list[psutil.Process]]] = []
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._told_of: list[tuple[str, str, float, float]] = []
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def inject(self, fault: str) -> bool:
        """Do it. What cannot be done now (nobody of that kind lives at the moment) is counted as failed: False.

        What the store or the receiver was told to do is counted at the `end`, when it is known whether anybody met it.
        """
        what, how = fault.split(" ", 1) if " " in fault else (fault, "")
        action: Callable[[str], bool] = getattr(self, f"_{what}")
        done = action(how)
        if what not in _TOLD:
            (self.done if done else self.failed)[fault] += 1
        return done

    def wake(self, *, all_of_them: bool = False) -> None:
        """Let go on what was stopped for long enough."""
        now = time.monotonic()
        with self._lock:
            due = [each for each in self._stopped if all_of_them or each[0] <= now]
            self._stopped = [each for each in self._stopped if each not in due]
        for _, processes in due:
            send(processes, signal.SIGCONT)
            note("continued", pids=[each.pid for each in processes])

    def end(self) -> None:
        """The storm is over: nothing is stopped, refused or wrong any more."""
        self.wake(all_of_them=True)
        for subject in ("store", "receiver", "clock", "stall"):
            tell(subject, mode="none", until=0, pid=0, seconds=0)
        told, self._told_of = self._told_of, []
        for subject, how, since, until in told:
            met = any(each["what"] == how and since <= each["at"] <= until + _LATE_SECONDS for each in journal(subject))
            (self.done if met else self.failed)[f"{subject} {how}"] += 1

    def _hit(self, kind: str, how: str, victims: Sequence[psutil.Process], seconds: float, **more: object) -> bool:
        if not victims:
            return False
        note("fault", what=kind, how=how, pids=[each.pid for each in victims], seconds=seconds, **more)
        if how == "kill":
            send(victims, signal.SIGKILL)
        else:
            send(victims, signal.SIGSTOP)
            with self._lock:
                self._stopped.append((time.monotonic() + seconds, list(victims)))
        return True

    def _busy(self) -> dict[int, str]:
        """Pids of replicas at work, and the jobs."""
        ended = {(each["job"], each["fence"], each["pool"]) for each in journal("end")[-400:]}
        return {
            each["pid"]: each["job"]
            for each in journal("begin")[-100:]
            if (each["job"], each["fence"], each["pool"]) not in ended
        }

    def _replica(self, how: str) -> bool:
        busy: dict[int, str] = {}
        found: list[psutil.Process] = []
        for _ in range(20):
            busy = self._busy()
            found = self._service.replicas()
            if any(each.pid in busy for each in found):
                break
            time.sleep(0.1)
        found = [each for each in found if each.pid in busy] or found
        victims = [self._dice.choice(found)] if found else []
        seconds = self._dice.choice([2.0, 4.0, 14.0])
        pool = pool_of(titled(victims[0])) if victims else ""
        if not pool:
            return False
        beside = [each.pid for each in self._service.replicas(pool) if each.pid != victims[0].pid and _goes(each)]
        return self._hit("replica", how, victims, seconds, job=busy.get(victims[0].pid), pool=pool, beside=beside)

    def _dispatcher(self, how: str) -> bool:
        found = self._at_work()
        if how == "stall":
            return bool(found) and self._stall(self._dice.choice(found).pid)
        # Mostly for a little longer than a session lives: it wakes when others have its jobs, and its results are late.
        seconds = self._dice.choice([self._dice.uniform(2, 5), *(self._dice.uniform(7, 10) for _ in range(3)), 14.0])
        return self._hit("dispatcher", how, [self._dice.choice(found)] if found else [], seconds)

    def _at_work(self) -> list[psutil.Process]:
        """Dispatchers, if possible those that have jobs now."""
        for _ in range(20):
            with contextlib.suppress(*UNAVAILABLE):
                driving = asyncio.run_coroutine_threadsafe(self._service.driving(), self._loop).result(3)
                busy = [each for each in self._service.dispatchers() if each.pid in driving]
                if busy:
                    return busy
            time.sleep(0.1)
        return self._service.dispatchers()

    def _ingress(self, how: str) -> bool:
        process = self._dice.choice(self._service.ingresses)
        return process is not None and self._hit("ingress", how, below(process.pid), self._dice.uniform(1, 6))

    def _background(self, how: str) -> bool:
        process = self._service.background
        return process is not None and self._hit("background", how, below(process.pid), 0)

    def _controller(self, how: str) -> bool:
        return self._hit("controller", how, self._service.controllers(), self._dice.uniform(3, 10))

    def _standing(self) -> list[Node]:
        """Workers that may be taken: never the last one."""
        found = [each for each in self._service.cluster.workers if each.raylet() and alive(each.raylet()[0])]
        return found if len(found) > 1 else []

    def _node(self, how: str) -> bool:
        found = self._standing()
        if not found:
            return False
        node = self._dice.choice(found)
        if how == "stop":
            # A raylet that hangs, or a whole machine: a network that is cut, a kernel that swaps.
            frozen = self._dice.choice([node.raylet, node.processes])()
            return self._hit("node", how, frozen, self._dice.uniform(2, 6), node=node.name)
        if how == "drain":
            answer = self._service.ask("drain", node.name, _DRAIN_SECONDS)
            drains = answer.splitlines()[-1:] == [DRAINS]
            note("fault" if drains else "not drained", what="node", how=how, node=node.name, pids=[], answer=answer)
            return drains
        pids = [each.pid for each in node.processes()]
        note("fault", what="node", how=how, node=node.name, pids=pids, seconds=0)
        with self._service.nodes:
            node.kill()
        return True

    def _head(self, how: str) -> bool:
        found = self._service.cluster.head.processes()
        if how == "stop":
            return self._hit("head", how, found, self._dice.uniform(3, 14))
        if not found:
            return False
        note("fault", what="head", how=how, pids=[each.pid for each in found], seconds=0)
        with self._service.nodes:
            self._service.cluster.head.kill()
        return True

    def _database(self, how: str) -> bool:
        postgres = self._service.postgres
        if postgres.pid is None:
            return False
        note("fault", what="database", how=how, pids=[postgres.pid], seconds=0)
        if how == "restart":
            with self._service.lock:
                postgres.restart()
        else:
            send([psutil.Process(postgres.pid)], signal.SIGKILL)
        return True

    def _store(self, how: str) -> bool:
        return self._told("store", how, self._dice.uniform(1.5, 3))

    def _receiver(self, how: str) -> bool:
        return self._told("receiver", how, self._dice.uniform(4, 12))

    def _stall(self, pid: int) -> bool:
        """From its next settlement on, until somebody else has begun with the job; False when it settled nothing."""
        began, known = time.time(), len(journal("stalled"))
        note("fault", what="stall", how="stall", pids=[pid], seconds=STALL_SECONDS)
        tell("stall", pid=pid, seconds=STALL_SECONDS, until=began + _SETTLES_WITHIN_SECONDS)
        while len(journal("stalled")) == known:
            if time.time() > began + _SETTLES_WITHIN_SECONDS:
                return False
            time.sleep(0.05)
        while time.time() < began + _SETTLES_WITHIN_SECONDS + STALL_SECONDS:
            done = {each["job"]: each["fence"] for each in journal("end") if each["at"] > began - 2}
            if any(
                done.get(each["job"], each["fence"]) < each["fence"] for each in journal("begin") if each["at"] > began
            ):
                break
            time.sleep(0.05)
        tell("release", until=time.time())
        return True

    def _told(self, subject: str, how: str, seconds: float) -> bool:
        note("fault", what=subject, how=how, pids=[], seconds=seconds)
        began = time.time()
        tell(subject, mode=how, until=began + seconds)
        self._told_of.append((subject, how, began, began + seconds))
        return True

    def _redeploy(self, _how: str) -> bool:
        note("fault", what="redeploy", how="", pids=[])
        self._service.redeploy()
        note("fault", what="redeploy", how="over", pids=[])
        return True

    def _clock(self, _how: str) -> bool:
        found = [*self._service.dispatchers(), *self._service.replicas()]
        found += [
            psutil.Process(each.pid) for each in self._service.ingresses if each is not None and each.poll() is None
        ]
        if not found:
            return False
        victim, seconds = self._dice.choice(found), self._dice.choice([-3600.0, -90.0, 90.0, 3600.0])
        note("fault", what="clock", how="jump", pids=[victim.pid], jumped=seconds)
        tell("clock", pid=victim.pid, seconds=seconds)
        return True
