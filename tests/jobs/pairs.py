"""Each two operations at once, held up at a row that they lock: what comes of them is what one of the two orders gives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from itertools import combinations_with_replacement
from typing import Any

import asyncpg

from core.database import Database
from tests.jobs.model import (
    Beat,
    Cancel,
    CancelDue,
    Chargeback,
    Claim,
    Close,
    HandBack,
    Model,
    Opened,
    Operation,
    Permitted,
    ProgressMade,
    SegmentEnd,
    Settle,
    Silence,
    Slots,
    StageBegin,
    StartTimeout,
    Submit,
    Token,
    Topup,
    Wrong,
)
from tests.jobs.scene import Bench, Scene

PLAIN, LONG, READY, PARKED, THEIRS = range(5)
"""Jobs of the scene: leased in the only segment, leased in the first of two, waiting, parked, and another account's."""
_HELD, _ALSO = Token(PLAIN, 1), Token(LONG, 1)
_PATIENCE_SECONDS = 20.0
_COME_AGAIN = (Beat, Close, StartTimeout)
"""These pass over rows that somebody has locked, and take them when they come the next time."""

OPERATIONS: tuple[Operation, ...] = (
    Settle(_HELD, "succeeded"),
    Settle(_HELD, "failed"),
    Settle(_HELD, "cancelled"),
    Settle(_ALSO, "succeeded"),
    SegmentEnd(_ALSO),
    HandBack(_HELD, counts=True),
    HandBack(_HELD, counts=False, begun=False),
    StageBegin(_HELD),
    ProgressMade(_HELD),
    Permitted(_HELD),
    Cancel(PLAIN),
    Cancel(LONG),
    Cancel(READY),
    Cancel(PARKED),
    CancelDue(),
    StartTimeout(),
    Claim("gpu", 3, 1),
    Submit(0, key="a"),
    Submit(0, ("cpu",), key="b"),
    Submit(0, key="b", price=250),
    Beat(1),
    Close(0),
    Topup(0, 50, 1),
    Chargeback(0, 200_000, 2),
)
GATES = {
    "the queue's row": "SELECT FROM queue WHERE job_id = $1 FOR UPDATE",
    "the job's row": "SELECT FROM job WHERE id = $1 FOR UPDATE",
    "the flow's row": "SELECT FROM flow WHERE account_id = (SELECT account_id FROM job WHERE id = $1)"
    " AND pool = 'gpu' FOR UPDATE",
    "the wallet's row": "SELECT FROM wallet WHERE account_id = (SELECT account_id FROM job WHERE id = $1) FOR UPDATE",
}


async def set_up(scene: Scene) -> Model:
    """Five jobs of two accounts, in every place, of two sessions, one of which has died."""
    model = await scene.begin()
    await scene.prepare(
        model,
        Submit(0, ("gpu",), key="a", webhook=True),
        Submit(0, ("gpu", "cpu")),
        Opened(),
        Slots("gpu", 3),
        Claim("gpu", 2, 0),
        Submit(1, ("gpu",), late=True),
        Submit(0, ("gpu",), due=True),
        Submit(1, ("cpu",), late=True, due=True),
        Silence(0),
    )
    await scene.compare(model)
    return model


def cases(every: bool) -> Iterator[tuple[Operation, Operation, str]]:
    """Every two operations, at every gate or each at the next one."""
    gates = list(GATES)
    for number, (first, second) in enumerate(combinations_with_replacement(OPERATIONS, 2)):
        for gate in gates if every else gates[number % len(gates) :][:1]:
            yield first, second, gate


async def _waits(admin: asyncpg.Connection, task: asyncio.Task[Any], others: int) -> None:
    """Until the task is done, or one more than `others` wait for a lock."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not task.done():
            waiting = await admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if waiting > others:
                return
            await asyncio.sleep(0)


@asynccontextmanager
async def _gate(database: Database, gate: str, job: Any) -> Any:
    async with database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(GATES[gate], job)
        try:
            yield
        finally:
            await transaction.rollback()


async def at_once(scene: Scene, first: Operation, second: Operation, gate: str) -> None:
    """Both, begun while somebody holds that row, then let go.

    Raises:
        Wrong: neither order of the two explains what came of it; or they waited for each other.
    """
    model = await set_up(scene)
    async with scene.database.pool.acquire() as admin, _gate(scene.database, gate, scene.jobs[PLAIN]):
        one = asyncio.create_task(scene.perform(first))
        await _waits(admin, one, 0)
        two = asyncio.create_task(scene.perform(second))
        await _waits(admin, two, 0 if one.done() else 1)
    try:
        answers = list(await asyncio.wait_for(asyncio.gather(one, two), _PATIENCE_SECONDS))
    except asyncpg.DeadlockDetectedError as deadlock:
        await asyncio.gather(one, two, return_exceptions=True)
        raise Wrong(f"{first} and {second} waited for each other at {gate}") from deadlock
    for place, operation in enumerate((first, second)):
        if isinstance(operation, _COME_AGAIN):
            again = await scene.perform(operation)
            answers[place] = answers[place] + again if isinstance(again, int) else answers[place]
    await scene.database.execute("SELECT flow_catch_up()")
    both = list(zip((first, second), answers, strict=True))
    refusals = []
    for order in (both, both[::-1]):
        after = deepcopy(model)
        try:
            for operation, answer in order:
                scene.answered(after, operation, answer)
            await scene.compare(after)
        except Wrong as wrong:
            refusals.append(str(wrong))
        else:
            await scene.hold_at_rest()
            return
    raise Wrong(f"no order explains {both} at {gate}: {refusals}")


def interleave(bench: Bench, *, every: bool) -> None:
    """Every case, one after another.

    Raises:
        Wrong: see `at_once`.
    """
    scene = Scene(bench.database)
    for case in cases(every):
        bench.tried += 1
        bench.run(at_once(scene, *case))
