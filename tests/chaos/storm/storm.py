"""One storm from its first process to its report."""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psutil

from core.database import UNAVAILABLE
from core.ids import decode
from killatamata.embedded_postgres import EmbeddedPostgresError
from tests.chaos.storm import books, faults, fleet, plan, recovery
from tests.chaos.storm.books import Books
from tests.chaos.storm.faults import Faults
from tests.chaos.storm.ground import Json, journal, note, tell
from tests.chaos.storm.judge import Judge
from tests.chaos.storm.load import Load
from tests.chaos.storm.plan import Wish
from tests.chaos.storm.processes import end_all
from tests.chaos.storm.receiver import Receiver
from tests.chaos.storm.service import LOOK_SECONDS, Customer, Service
from tests.chaos.storm.shortfalls import shortfalls
from tests.chaos.storm.size import Size

CUSTOMERS = 4
WAKE_SECONDS = 0.1
_TIDE_SECONDS = 0.2
QUIET_SECONDS = 200.0
"""How long a storm's aftermath may take until every job and every delivery has ended."""

_QUIET, _FLOODING = CUSTOMERS, CUSTOMERS + 1
_ENCORE = 10
_TRIES, _AFTER = 3, 2
"""How often a fault is tried that is not possible at its moment, and after how many others."""


async def storm(seed: int, size: Size, *, fence: bool = True, permit: bool = True, keep: bool = False) -> Json:
    """Run it; returns the report. Without `fence` or `permit`, the bug is planted that it guards against."""
    folder = Path(tempfile.mkdtemp(prefix="kts"))
    began = time.monotonic()
    service = Service(folder, real=size.real)
    try:
        tell("permit", planted=not permit)
        await service.start(fence=fence)
        note("up", seconds=time.monotonic() - began)
        return await _weathered(service, seed, size, began, {"fence": fence, "permit": permit})
    finally:
        with suppress(*UNAVAILABLE):
            await service.stop()
        end_all(folder)
        if not keep:
            shutil.rmtree(folder)
        else:
            print(f"kept: {folder}", file=sys.stderr)


async def _weathered(service: Service, seed: int, size: Size, began: float, guards: Json) -> Json:
    customers = [await service.customer(f"customer {number}") for number in range(CUSTOMERS + 2)]
    with Receiver() as receiver:
        for customer in customers:
            secret = await service.secret(customer)
            receiver.secrets[customer.account_id] = secret
        hooks = {place: receiver.url(each.account_id, "").rstrip("/") for place, each in enumerate(customers)}
        load = Load(service.base_url, customers, seed, hooks)
        doing = Faults(service, seed)
        watching = asyncio.gather(
            _again(service.look, LOOK_SECONDS), _again(service.mend, LOOK_SECONDS), _again(doing.wake, WAKE_SECONDS)
        )
        try:
            await _fairly(service, load, customers[_FLOODING], seed, size)
            wishes = plan.drawn(seed, size.jobs, size.seconds, CUSTOMERS, real=size.real)
            blowing = asyncio.create_task(_blow(doing, seed, size))
            await load.run(wishes)
            await _encore(load, seed, size, blowing)
            await blowing
            await asyncio.to_thread(doing.end)
            quiet = await _until_quiet(service)
        finally:
            await asyncio.to_thread(doing.end)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await load.close()
        found = await books.read(service.database)
        judge = Judge(found, load.wishes, receiver.heard, journal)
        zeros = judge.zeros() | {"forged": receiver.forged, "internalErrors": load.statuses["500"]}
    report: Json = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        **guards,
        "seconds": time.monotonic() - began,
        "faults": dict(sorted(doing.done.items())),
        "faultsNotPossible": dict(doing.failed),
        "engineFaults": dict(sorted(Counter(each["fault"] for each in journal("engine")).items())),
        "jobs": judge.counts(),
        "callers": _callers(load.wishes),
        "zeros": zeros,
        "recovery": recovery.times(found, journal),
        "stops": judge.stops(),
        "fairness": fairness(found, load.wishes, journal),
        "answers": dict(load.statuses.most_common()),
        "aftermathSeconds": quiet,
        "evidence": {name: cases[:10] for name, cases in judge.evidence.items()},
    }
    report["wrong"] = [name for name, count in zeros.items() if count]
    report["short"] = shortfalls(size, report)
    report["well"] = not (report["wrong"] or report["short"])
    return report


async def _again(work: Callable[[], object], pause: float) -> None:
    while True:
        try:
            await asyncio.to_thread(work)
        except (TimeoutError, *UNAVAILABLE, EmbeddedPostgresError, psutil.Error) as error:
            note("watch", error=repr(error))
        await asyncio.sleep(pause)


async def _blow(doing: Faults, seed: int, size: Size) -> None:
    """The faults, spread over the storm's time."""
    dice = random.Random(seed ^ 0xB10)
    drawn = [*itertools.islice(itertools.cycle(size.only), size.faults)] or faults.drawn(seed, size.faults)
    deck = deque((fault, 1) for fault in drawn)
    end = time.monotonic() + size.seconds
    while deck:
        heavy = sum(faults.HEAVY.get(each, 0.0) for each, _ in deck)
        pause = max(0.1, (end - time.monotonic() - heavy) / len(deck))
        fault, tries = deck.popleft()
        await asyncio.sleep(dice.uniform(0.4, 1.6) * pause)
        try:
            done = await asyncio.to_thread(doing.inject, fault)
        except (RuntimeError, *UNAVAILABLE, EmbeddedPostgresError, psutil.Error) as error:
            done = False
            doing.failed[fault] += 1
            note("not done", fault=fault, error=repr(error))
        if not done and tries < _TRIES:
            deck.insert(_AFTER, (fault, tries + 1))
        await asyncio.sleep(faults.HEAVY.get(fault, 0.0))


async def _encore(load: Load, seed: int, size: Size, blowing: asyncio.Task[None]) -> None:
    """More jobs at the same rate for as long as there are faults: none meets a service without work."""
    for wave in itertools.count(1):
        if blowing.done():
            return
        lasts = _ENCORE * size.seconds / size.jobs
        await load.run(plan.drawn(seed * 1000 + wave, _ENCORE, lasts, CUSTOMERS, real=size.real))


async def _fairly(service: Service, load: Load, flooder: Customer, seed: int, size: Size) -> None:
    """One caller alone, then the same beside a flood of another's jobs that does not end; nothing is killed yet."""
    few = max(5, size.flood // 4)
    await load.one_by_one(plan.quiet(seed, "alone", few, _QUIET), asyncio.Event())
    up, over = asyncio.Event(), asyncio.Event()
    flooding = asyncio.create_task(_flood(service, load, flooder, seed, size, up, over))
    try:
        await asyncio.wait({flooding, asyncio.create_task(up.wait())}, return_when=asyncio.FIRST_COMPLETED)
        await load.one_by_one(plan.quiet(seed, "flooded", few, _QUIET), asyncio.Event())
    finally:
        over.set()
        await flooding


async def _flood(
    service: Service, load: Load, flooder: Customer, seed: int, size: Size, up: asyncio.Event, over: asyncio.Event
) -> None:
    """Until `over`, never fewer than half of the flood's jobs wait or run; `up` once they do."""
    for wave in itertools.count():
        await load.run(plan.flood(seed * 1000 + wave, size.flood, 0.0, _FLOODING))
        up.set()
        while await _open_jobs(service, flooder) >= size.flood // 2:
            if over.is_set():
                return
            await asyncio.sleep(_TIDE_SECONDS)
        if over.is_set():
            return


async def _open_jobs(service: Service, customer: Customer) -> int:
    count: int = await service.database.fetch_value(
        "SELECT count(*) FROM job WHERE account_id = $1 AND finished_at IS NULL", UUID(customer.account_id)
    )
    return count


def fairness(found: Books, wishes: Sequence[Wish], journal: Callable[[str], list[Json]]) -> Json:
    """Waits from the submit to the engine's begin, alone and beside the flood, and how long a job of that has its slot.

    The service time is that of jobs which ended while others waited beside them; later ones met the storm.
    `overlapped` of `count`: jobs at whose begin a job of the flood that came earlier had not ended.
    """
    begins: dict[UUID, float] = {}
    for run in journal("begin"):
        begins.setdefault(UUID(run["job"]), run["at"])
    rows: dict[str, list[tuple[float, float, float]]] = {"alone": [], "flooded": [], "flood": []}
    for wish in wishes:
        if wish.kind in rows:
            for job in (decode("job", answer) for answer in wish.answers):
                if job in begins and job in found.jobs and found.jobs[job]["finished_at"]:
                    made, ended = (found.jobs[job][name].timestamp() for name in ("created_at", "finished_at"))
                    rows[wish.kind].append((made, begins[job], ended))
    alone, flooded = (
        recovery.percentile([begun - made for made, begun, _ in rows[kind]], 0.5) for kind in ("alone", "flooded")
    )
    over = max((ended for _, _, ended in rows["flooded"]), default=0.0)
    served = [ended - begun for _, begun, ended in rows["flood"] if ended <= over]
    service = sum(served) / len(served) if served else 0.0
    return {
        "alone": alone,
        "flooded": flooded,
        "meanService": service,
        "slots": fleet.IMAGES,
        "limit": None if alone is None else alone + 1.5 * service / fleet.IMAGES,
        "count": len(rows["flooded"]),
        "overlapped": sum(
            any(earlier < made and ended > begun for earlier, _, ended in rows["flood"])
            for made, begun, _ in rows["flooded"]
        ),
    }


def _callers(wishes: Sequence[Wish]) -> Json:
    """Of the storm's own jobs: how many callers stayed, how many of these were answered, and how many vanished."""
    own = [wish for wish in wishes if wish.kind not in ("alone", "flooded", "flood")]
    stayed = [wish for wish in own if not wish.vanishes]
    return {
        "stayed": len(stayed),
        "answered": sum(bool(wish.answers) for wish in stayed),
        "vanished": sum(each["how"] == "vanished" for each in journal("caller")),
    }


async def _until_quiet(service: Service) -> float:
    """Wait until nothing is queued, running or to be delivered; returns the seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < QUIET_SECONDS:
        with suppress(*UNAVAILABLE):
            if not await service.database.fetch_value(
                "SELECT EXISTS (SELECT FROM job WHERE finished_at IS NULL)"
                " OR EXISTS (SELECT FROM delivery WHERE state = 'pending')"
            ):
                break
        await asyncio.sleep(0.5)
    await asyncio.sleep(3)
    return time.monotonic() - began
