"""What do a thousand open event streams cost one ingress?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import psutil

from benchmarks.measuring import scaled
from benchmarks.results import Result, Skipped
from benchmarks.services import Customer, Ingress, created, opened, running_ingress
from benchmarks.submit_http import PATH, submitted
from core.database import Database
from core.ids import decode, encode
from killatamata.embedded_postgres import EmbeddedPostgres

CLIENTS = scaled(1_000, 5)
EVENTS_A_SECOND = 20
_CUSTOMERS = -(-CLIENTS // 10)
"""Each may have ten streams open."""
_WINDOW_SECONDS = max(10 * min(CLIENTS / 1_000, 1), 1)
_MIB = 2**20
_LEAST_CPU = 0.1
"""Percent of a core; less cannot be told from nothing in this time."""


async def event_streams(postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """Memory and CPU of an ingress with open streams, silent and with events ÷ the same ingress idle.

    Raises:
        Skipped: the ingress has no event streams.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(created(postgres, "streams"))
        database = await stack.enter_async_context(opened(postgres, "streams"))
        ingress = await stack.enter_async_context(running_ingress(database, _CUSTOMERS))
        jobs = {customer: encode("job", await submitted(ingress.port, customer.key)) for customer in ingress.customers}
        await _require_streams(ingress, jobs)
        process = psutil.Process(ingress.pid)
        idle_cpu, idle_memory = await _observed(process)
        readers = [
            await _opened(stack, ingress.port, customer, jobs[customer])
            for customer, _ in zip(_in_turn(ingress.customers), range(CLIENTS), strict=False)
        ]
        silent_cpu, memory = await _observed(process)
        telling = asyncio.create_task(_tell(database, list(jobs.values())))
        received = asyncio.gather(*(_count(reader, _WINDOW_SECONDS) for reader in readers))
        busy_cpu, _ = await _observed(process)
        heard = sum(await received)
        telling.cancel()
        if not heard:
            raise RuntimeError("no stream heard an event")
    versus = "the same ingress without a stream"
    yield Result("event_streams.memory", memory, "MiB", versus, idle_memory, "lower")
    yield Result("event_streams.cpu_silent", silent_cpu, "% of a core", versus, idle_cpu, "lower")
    yield Result(
        "event_streams.cpu_with_events", busy_cpu, "% of a core", f"{versus}; {heard} lines heard", idle_cpu, "lower"
    )


def _target(job: str) -> str:
    return f"{PATH}/events?jobId={job}"


def _in_turn(customers: tuple[Customer, ...]) -> list[Customer]:
    return [customers[number % len(customers)] for number in range(CLIENTS)]


async def _require_streams(ingress: Ingress, jobs: dict[Customer, str]) -> None:
    customer, job = next(iter(jobs.items()))
    headers = {"Authorization": f"Bearer {customer.key}", "Accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ingress.port}", trust_env=False, timeout=30) as client,
        client.stream("GET", _target(job), headers=headers) as answer,
    ):
        kind = answer.headers.get("content-type", "")
        if answer.status_code == 404:
            raise Skipped("the ingress has no GET /media/jobs/events yet")
        if answer.status_code != 200 or not kind.startswith("text/event-stream"):
            raise RuntimeError(f"an event stream was answered with {answer.status_code} {kind}")


async def _opened(stack: AsyncExitStack, port: int, customer: Customer, job: str) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stack.callback(writer.close)
    writer.write(
        f"GET {_target(job)} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {customer.key}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"a stream was not opened: {head.decode(errors='replace')}")
    return reader


async def _observed(process: psutil.Process) -> tuple[float, float]:
    """Percent of a core in the next seconds, and MiB of resident memory after them."""
    process.cpu_percent()
    await asyncio.sleep(_WINDOW_SECONDS)
    return max(process.cpu_percent(), _LEAST_CPU), process.memory_info().rss / _MIB


async def _tell(database: Database, jobs: list[str]) -> None:
    """Events of running jobs, as a dispatcher writes them."""
    ids = [decode("job", job) for job in jobs]
    await database.execute(
        "UPDATE job SET state = 'running', fence = 1, started_at = clock_timestamp() WHERE id = ANY ($1::uuid[])", ids
    )
    while True:
        for job in ids:
            await database.execute("SELECT job_progress($1, 1, random()::real)", job)
            await asyncio.sleep(1 / EVENTS_A_SECOND)


async def _count(reader: asyncio.StreamReader, seconds: float) -> int:
    lines = 0
    try:
        async with asyncio.timeout(seconds):
            while line := await reader.readline():
                lines += line.startswith(b"data:")
    except TimeoutError:
        return lines
    raise RuntimeError("the ingress closed a stream")
