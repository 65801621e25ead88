"""How long does one large body hold up everybody else, and how much memory does it take?"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from benchmarks.measuring import scaled
from benchmarks.results import Result
from benchmarks.services import Customer, created, opened, running_ingress
from benchmarks.submit_http import PATH
from jobs import pools
from killatamata.embedded_postgres import EmbeddedPostgres

FILE_BYTES = scaled(22_400_000, 1_000)
_TURNS = scaled(5)
_WATCH_SECONDS = 2.0
_MB = 1e6


async def large_body(postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """The longest that GET /health waits while a submit of 60 MB of inline media is taken in ÷ on the idle ingress.

    And the ingress's peak memory above idle ÷ the size of the body. The base64 has line breaks, the slowest of its forms.
    """
    body = _body()
    stalls, idle, answers = [], [], []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(created(postgres, "large"))
        database = await stack.enter_async_context(opened(postgres, "large"))
        ingress = await stack.enter_async_context(running_ingress(database, 1))
        await pools.declare(database, frozenset({"qwen-image-edit"}))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{ingress.port}", trust_env=False, timeout=120)
        )
        (customer,) = ingress.customers
        before = _memory(ingress.pid, "VmRSS")
        for _ in range(_TURNS):
            idle.append(await _longest_wait(client, asyncio.create_task(asyncio.sleep(_WATCH_SECONDS))))
            submit = asyncio.create_task(_submitted(client, customer, body))
            stalls.append(await _longest_wait(client, submit))
            answers.append(submit.result())
        peak = _memory(ingress.pid, "VmHWM") - before
        if set(answers) != {202}:
            raise RuntimeError(f"the submits were answered with {answers}")
    versus = "the same ingress idle"
    yield Result("large_body.longest_wait", max(stalls) * 1e3, "ms", versus, max(idle) * 1e3, "lower")
    yield Result("large_body.memory", peak, "MB", "the body", len(body) / _MB, "lower", 3)


def _body() -> bytes:
    picture = b"\x89PNG\r\n\x1a\n" + random.Random(7).randbytes(FILE_BYTES)
    media = [{"dataBase64": base64.encodebytes(picture).decode(), "mimeType": "image/png"}] * 2
    return json.dumps({"task": "image.generate", "input": {"prompt": "x", "referenceImages": media}}).encode()


async def _submitted(client: httpx.AsyncClient, customer: Customer, body: bytes) -> int:
    headers = {"x-api-key": customer.key, "Content-Type": "application/json"}
    return (await client.post(PATH, content=_pieces(body), headers=headers)).status_code


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1 << 16):
        yield body[start : start + (1 << 16)]


async def _longest_wait(client: httpx.AsyncClient, until: asyncio.Task[object]) -> float:
    """Seconds."""
    longest = 0.0
    while not until.done():
        began = time.perf_counter()
        (await client.get("/api/v1/health")).raise_for_status()
        longest = max(longest, time.perf_counter() - began)
    return longest


def _memory(pid: int, name: str) -> float:
    """MB of a process, after proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / _MB
