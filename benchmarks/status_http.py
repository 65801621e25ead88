"""What does a status read cost beyond uvicorn itself?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import httpx

from benchmarks.load import request, send_from_process
from benchmarks.measuring import CONNECTIONS, ROUNDS, compared, in_turns
from benchmarks.results import Result
from benchmarks.services import created, opened, running_ingress, running_server
from benchmarks.submit_http import PATH, submitted
from core.ids import encode
from killatamata.embedded_postgres import EmbeddedPostgres


async def status_http(postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """`GET /media/jobs?jobId=` of queued jobs ÷ a constant JSON of the same size; 16 connections, one account on each.

    The limit is against a plain Starlette application; the bare ASGI one beside it tells what Starlette itself costs.
    """
    async with (
        AsyncExitStack() as stack,
        created(postgres, "status"),
        opened(postgres, "status") as database,
        running_ingress(database, CONNECTIONS) as ingress,
    ):
        targets = [
            f"{PATH}?jobId={encode('job', await submitted(ingress.port, customer.key))}"
            for customer in ingress.customers
        ]
        requests = [
            request("GET", target, customer.key) for target, customer in zip(targets, ingress.customers, strict=True)
        ]
        body = await _read(ingress.port, targets[0], ingress.customers[0].key)
        sides = [partial(send_from_process, ingress.port, requests, 200)]
        for kind in ("starlette", "bare"):
            before = ("-m", "benchmarks.constant")
            constant = await stack.enter_async_context(running_server(before, (kind, body), "/", {}))
            sides.append(partial(send_from_process, constant.port, requests, 200))
        ours, starlette, bare = await in_turns(ROUNDS, *sides)
    size = len(body.encode())
    versus = f"uvicorn, Starlette and a constant JSON of {size} bytes"
    for result in compared("status_http", ours, starlette, unit="reads/s", versus=versus, limit=0.2):
        yield result
    for result in compared("status_http_bare", ours, bare, unit="reads/s", versus=f"uvicorn and {size} constant bytes"):
        yield result


async def _read(port: int, target: str, key: str) -> str:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        answer = await client.get(target, headers={"Authorization": f"Bearer {key}"})
    return answer.raise_for_status().text
