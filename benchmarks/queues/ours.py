"""`python -m benchmarks.queues.ours`: jobs of a chain that does nothing, from `Jobs.submit` to their settlement.

Reads `{"url", "jobs", "warm_up", "concurrency"}` and writes how long they took. The dispatcher is the real one; only Serve
is not there, so the number of slots is fixed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import uvloop

from benchmarks import submission
from benchmarks.measuring import CONNECTIONS
from cluster import dispatcher
from cluster.dispatcher import Dispatcher
from cluster.steps import Steps
from core.database import Database
from core.ids import uuid7
from jobs import pools
from jobs.leases import Outcome
from jobs.models import Submission
from jobs.store import Jobs
from jobs.wakeup import Wakeup
from pricing.quotes import Quote

POOL = "benchmark"
TASK = "image.generate"
ACCOUNTS = 100
PRICE = 5_000
INPUT: dict[str, Any] = {
    "prompt": "cinematic fox astronaut",
    "negativePrompt": "",
    "width": 1024,
    "height": 1024,
    "outputFormat": "webp",
    "highDetail": False,
    "referenceImages": [],
    "seed": 7,
}
_LOOK_SECONDS = 0.02
_PATIENCE_SECONDS = 120


async def _nothing(_steps: Steps) -> Outcome:
    return Outcome()


class Unserved(Dispatcher):
    """A dispatcher outside Serve."""

    def __init__(self, slots: dict[str, int]) -> None:
        self._fixed = slots
        super().__init__()

    async def _slots(self) -> dict[str, int]:
        return self._fixed


@asynccontextmanager
async def dispatching(slots: dict[str, int], chain: Any) -> AsyncIterator[None]:
    """A dispatcher that runs `chain` for every job; its settings are the environment's."""
    setattr(dispatcher, "CHAINS", {TASK: (chain,), "image.edit": (chain,)})  # noqa: B010 (the name is imported there)
    running = Unserved(slots)
    try:
        yield
    finally:
        running._main.cancel()
        with suppress(asyncio.CancelledError):
            await running._main
        await running._database.close()


def submission_of(account: UUID, pool: str, task: str = TASK, given: dict[str, Any] = INPUT) -> Submission:
    """A job of `account`, as the ingress would submit it; `given` is its effective input."""
    return Submission(
        account_id=account,
        task=task,
        effective_input=given,
        input_adjustments=[],
        warnings=[],
        quote=Quote(PRICE, (), "benchmark"),
        pools=(pool,),
        cost_seconds=1.0,
        priority="standard",
        request_id="req_benchmark",
        idempotency_key=str(uuid7()),
        fingerprint=bytes(32),
        start_timeout_seconds=3600,
    )


async def submit_all(database: Database, accounts: Sequence[UUID], count: int, pool: str, wakeup: Wakeup) -> None:
    """So many jobs, `CONNECTIONS` at a time, the accounts in turn."""
    jobs, turns = Jobs(database), itertools.cycle(accounts)
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            await jobs.submit(submission_of(next(turns), pool))
            wakeup.ask()

    await asyncio.gather(*(one_after_the_other() for _ in range(CONNECTIONS)))


async def ended(database: Database) -> None:
    """Returns when no job waits or runs.

    Raises:
        TimeoutError: some still do after two minutes.
        RuntimeError: some did not succeed.
    """
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while await database.fetch_value("SELECT EXISTS (SELECT FROM queue)"):
            await asyncio.sleep(_LOOK_SECONDS)
    failed = await database.fetch_value("SELECT count(*) FROM job WHERE state <> 'succeeded'")
    if failed:
        raise RuntimeError(f"{failed} jobs did not succeed")


async def until(database: Database, began: datetime) -> float:
    """Seconds from `began` (the server's clock) to the last end."""
    last: datetime = await database.fetch_value("SELECT max(finished_at) FROM job")
    return (last - began).total_seconds()


async def measure(url: str, count: int, warm_up: int, concurrency: int) -> dict[str, Any]:
    """Seconds from the first submit to the last settlement."""
    database = Database(url, size=CONNECTIONS)
    await database.open()
    await pools.declare(database, frozenset({POOL}))
    await pools.set_slots(database, {POOL: concurrency})
    accounts = await submission.customers(database, ACCOUNTS)
    wakeup = Wakeup(database)
    wakeup.start()
    async with dispatching({POOL: concurrency}, _nothing):
        await submit_all(database, accounts, warm_up, POOL, wakeup)
        await ended(database)
        began: datetime = await database.fetch_value("SELECT clock_timestamp()")
        clock = time.perf_counter()
        await submit_all(database, accounts, count, POOL, wakeup)
        submitted = time.perf_counter() - clock
        await ended(database)
        seconds = await until(database, began)
    await wakeup.stop()
    if drift := await database.fetch("SELECT * FROM drift"):
        raise RuntimeError(f"wallets drifted: {drift}")
    await database.close()
    return {"seconds": seconds, "submitted_in": submitted}


def main() -> None:
    """The command."""
    order = json.load(sys.stdin)
    print(json.dumps(uvloop.run(measure(order["url"], order["jobs"], order["warm_up"], order["concurrency"]))))


if __name__ == "__main__":
    main()
