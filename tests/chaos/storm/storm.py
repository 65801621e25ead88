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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from core.database import UNAVAILABLE
from core.ids import decode
from killatamata.embedded_postgres import EmbeddedPostgresError
from tests.chaos.storm import books, faults, fleet, plan, recovery
from tests.chaos.storm.books import Books, seconds
from tests.chaos.storm.faults import Faults
from tests.chaos.storm.ground import Json, journal, note
from tests.chaos.storm.judge import Judge
from tests.chaos.storm.load import Load
from tests.chaos.storm.plan import Wish
from tests.chaos.storm.processes import end_all
from tests.chaos.storm.receiver import Receiver
from tests.chaos.storm.service import LOOK_SECONDS, Service

CUSTOMERS = 4
WAKE_SECONDS = 0.1
QUIET_SECONDS = 200.0
"""How long a storm's aftermath may take until every job and every delivery has ended."""

_QUIET, _FLOODING = CUSTOMERS, CUSTOMERS + 1


@dataclass(frozen=True)
class Size:
    """Jobs and faults within `seconds`; `flood`: jobs of the flood that comes before.

    `real`: with a real engine. `only`: these faults in turn, in the place of those drawn.
    """

    jobs: int
    faults: int
    seconds: float
    flood: int
    real: bool = True
    only: tuple[str, ...] = ()


async def storm(seed: int, size: Size, *, fence: bool = True, keep: bool = False) -> Json:
    """Run it; returns the report."""
    folder = Path(tempfile.mkdtemp(prefix="kts"))
    began = time.monotonic()
    service = Service(folder, real=size.real)
    try:
        await service.start(fence=fence)
        note("up", seconds=time.monotonic() - began)
        return await _weathered(service, seed, size, began, fence=fence)
    finally:
        with suppress(*UNAVAILABLE):
            await service.stop()
        end_all(folder)
        if not keep:
            shutil.rmtree(folder)
        else:
            print(f"kept: {folder}", file=sys.stderr)


async def _weathered(service: Service, seed: int, size: Size, began: float, *, fence: bool) -> Json:
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
            await _fairly(load, seed, size)
            wishes = plan.drawn(seed, size.jobs, size.seconds, CUSTOMERS, real=size.real)
            blowing = asyncio.create_task(_blow(doing, seed, size))
            await load.run(wishes)
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
        zeros = judge.zeros()
    report: Json = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "fence": fence,
        "seconds": time.monotonic() - began,
        "faults": dict(sorted(doing.done.items())),
        "faultsNotPossible": dict(doing.failed),
        "skipped": [],
        "jobs": judge.counts(),
        "zeros": zeros,
        "recovery": recovery.times(found, journal("fault"), journal("begin"), journal("end")),
        "stops": judge.stops(),
        "fairness": _fairness(found, load.wishes),
        "answers": dict(load.statuses.most_common()),
        "aftermathSeconds": quiet,
        "evidence": {name: cases[:10] for name, cases in judge.evidence.items()},
    }
    report["wrong"] = [name for name, count in zeros.items() if count]
    report["well"] = not report["wrong"]
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
    deck = [*itertools.islice(itertools.cycle(size.only), size.faults)] or faults.drawn(seed, size.faults)
    end = time.monotonic() + size.seconds
    for place, fault in enumerate(deck):
        heavy = sum(faults.HEAVY.get(each, 0.0) for each in deck[place:])
        pause = max(0.1, (end - time.monotonic() - heavy) / (len(deck) - place))
        await asyncio.sleep(dice.uniform(0.4, 1.6) * pause)
        try:
            await asyncio.to_thread(doing.inject, fault)
        except (RuntimeError, *UNAVAILABLE, EmbeddedPostgresError, psutil.Error) as error:
            doing.failed[fault] += 1
            note("not done", fault=fault, error=repr(error))
        await asyncio.sleep(faults.HEAVY.get(fault, 0.0))


async def _fairly(load: Load, seed: int, size: Size) -> None:
    """One caller alone, then the same beside a flood of another's jobs; nothing is killed yet."""
    few = max(5, size.flood // 4)
    await load.one_by_one(plan.quiet(seed, "alone", few, _QUIET), asyncio.Event())
    flooding = asyncio.create_task(load.run(plan.flood(seed, size.flood, 0.0, _FLOODING)))
    await asyncio.sleep(0.5)
    await load.one_by_one(plan.quiet(seed, "flooded", few, _QUIET), asyncio.Event())
    await flooding


def _fairness(found: Books, wishes: list[Wish]) -> Json:
    def rows(kind: str) -> list[books.Row]:
        ids = [decode("job", answer) for wish in wishes if wish.kind == kind for answer in wish.answers]
        return [found.jobs[each] for each in ids if each in found.jobs and found.jobs[each]["started_at"]]

    waits = {
        kind: [seconds(job["created_at"], job["started_at"]) for job in rows(kind)] for kind in ("alone", "flooded")
    }
    served = [seconds(job["started_at"], job["finished_at"]) for job in rows("flood") if job["finished_at"]]
    alone, flooded = (recovery.percentile(waits[kind], 0.5) for kind in ("alone", "flooded"))
    service = sum(served) / len(served) if served else 0.0
    limit = None if alone is None else alone + 1.5 * service / fleet.IMAGES
    return {"alone": alone, "flooded": flooded, "meanService": service, "slots": fleet.IMAGES, "limit": limit}


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
