"""What does HTTP cost a submit: authentication, validation, pricing, reading the job back, the answer?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from benchmarks import submission
from benchmarks.load import request, send_from_process
from benchmarks.measuring import CONNECTIONS, ROUND_SECONDS, ROUNDS, at_once, compared, in_turns
from benchmarks.results import Result
from benchmarks.services import created, opened, running_ingress
from core.ids import decode, uuid7
from killatamata.embedded_postgres import EmbeddedPostgres

PATH = "/api/v1/media/jobs"
BODY = b'{"task": "image.generate", "input": {"prompt": "cinematic fox astronaut", "width": 1024, "height": 1024}}'


async def submit_http(postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """`POST /media/jobs` ÷ SQL `submit` with the same arguments through asyncpg; 16 connections, one account on each."""
    async with (
        created(postgres, "submit"),
        opened(postgres, "submit") as database,
        running_ingress(database, CONNECTIONS) as ingress,
        asyncpg.create_pool(database.url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool,
    ):
        first = await submitted(ingress.port, ingress.customers[0].key)
        connections = [await pool.acquire() for _ in range(CONNECTIONS)]
        arguments = await submission.arguments(connections[0], first)
        straight: list[Callable[[], Awaitable[object]]] = [
            partial(_submit, connection, customer.account_id, arguments)
            for connection, customer in zip(connections, ingress.customers, strict=True)
        ]
        requests = [request("POST", PATH, customer.key, BODY) for customer in ingress.customers]
        ours, theirs = await in_turns(
            ROUNDS,
            partial(send_from_process, ingress.port, requests, 202),
            partial(at_once, ROUND_SECONDS, straight),
        )
        for connection in connections:
            await pool.release(connection)
    for result in compared(
        "submit_http", ours, theirs, unit="jobs/s", versus="SQL submit() straight through asyncpg", limit=0.4
    ):
        yield result


async def submitted(port: int, key: str) -> UUID:
    """The id of a job that was just submitted.

    Raises:
        httpx.HTTPStatusError: it was refused.
    """
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        answer = (await client.post(PATH, content=BODY, headers=headers)).raise_for_status()
    job = decode("job", answer.json()["jobId"])
    assert job is not None
    return job


async def _submit(connection: Any, account: UUID, arguments: tuple[Any, ...]) -> None:
    await connection.fetchrow(submission.ONE, uuid7(), account, *arguments)
