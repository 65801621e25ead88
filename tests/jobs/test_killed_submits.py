"""One request under one key, sent again and again while the connections that carry it are cut: one job, one hold."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.database import UNAVAILABLE, Database
from core.errors import IdempotencyInProgress
from jobs.store import Jobs
from tests.cutting import CUTS, Cutter
from tests.jobs.world import PRICE, World, submission

CLIENTS = 20


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_submit_whose_connections_are_cut_is_one_job_and_one_hold(
    world: World, database: Database, seed: int
) -> None:
    account = await world.account(credit=10 * PRICE)
    other = Database(database.url, size=CLIENTS)
    await other.open()
    jobs, cutter = Jobs(other), Cutter(database.url, seed)
    cutting = asyncio.create_task(cutter.run())
    retries = 0

    async def client(number: int) -> set[tuple[Any, int]]:
        nonlocal retries
        answers: set[tuple[Any, int]] = set()
        while not answers or not cutting.done():
            try:
                accepted = await jobs.submit(
                    submission(account, idempotency_key="one for all", webhook_url="https://a.b")
                )
            except (*UNAVAILABLE, IdempotencyInProgress):
                retries += 1
                await asyncio.sleep(0)
                continue
            answers.add((accepted.job.id, accepted.balance_after))
            await asyncio.sleep(0)
        return answers

    answers = await asyncio.wait_for(asyncio.gather(*(client(number) for number in range(CLIENTS))), 120)
    await cutting
    await other.close()
    assert (cutter.cut, retries > 0) == (CUTS, True)
    ((job, balance_after),) = set().union(*answers)
    assert balance_after == 9 * PRICE
    assert await world.counts("job", "hold", "idempotency", "movement WHERE kind = 'hold'") == [1, 1, 1, 1]
    assert (await world.reread(job)).hold_state == "held"


@pytest.mark.parametrize("seed", [3])
async def test_submits_of_their_own_keys_are_each_one_job_whenever_they_were_cut(
    world: World, database: Database, seed: int
) -> None:
    account = await world.account(credit=1_000 * PRICE)
    other = Database(database.url, size=CLIENTS)
    await other.open()
    jobs, cutter = Jobs(other), Cutter(database.url, seed)
    cutting = asyncio.create_task(cutter.run())
    accepted: dict[str, Any] = {}

    async def client(number: int) -> None:
        turn = 0
        while turn == 0 or not cutting.done():
            key = f"{number}:{turn % 8}"
            try:
                answer = await jobs.submit(submission(account, idempotency_key=key))
            except UNAVAILABLE:
                continue
            assert accepted.setdefault(key, answer.job.id) == answer.job.id
            turn += 1

    await asyncio.wait_for(asyncio.gather(*(client(number) for number in range(CLIENTS))), 120)
    await cutting
    # What a client never heard of is there once all the same: its answer was cut, not its job.
    for key in {f"{number}:{turn}" for number in range(CLIENTS) for turn in range(8)} & accepted.keys():
        assert (await world.jobs.submit(submission(account, idempotency_key=key))).job.id == accepted[key]
    await other.close()
    made, held, keys = await world.counts("job", "hold WHERE state = 'held'", "idempotency")
    assert made == held == keys >= len(accepted) >= CLIENTS
    assert (await world.balance(account)).held == made * PRICE
