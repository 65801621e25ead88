"""What does a status read cost beyond uvicorn itself?"""

from __future__ import annotations

from collections.abc import AsyncIterator
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
    """`GET /media/jobs?jobId=` of queued jobs ÷ a constant JSON of the same size; 16 connections, one account on each."""
    async with (
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
        async with running_server(("-m", "benchmarks.constant"), (body,), "/", {}) as constant:
            ours, theirs = await in_turns(
                ROUNDS,
                partial(send_from_process, ingress.port, requests, 200),
                partial(send_from_process, constant.port, requests, 200),
            )
    for result in compared(
        "status_http",
        ours,
        theirs,
        unit="reads/s",
        versus=f"uvicorn and a constant JSON of {len(body.encode())} bytes",
        limit=0.2,
    ):
        yield result


async def _read(port: int, target: str, key: str) -> str:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        answer = await client.get(target, headers={"Authorization": f"Bearer {key}"})
    return answer.raise_for_status().text
