"""`python -m benchmarks.queues.procrastinate_tasks`: tasks that do nothing, from `defer` to their end; its defaults.

Reads `{"url", "jobs", "warm_up", "concurrency"}` and writes how long they took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from typing import Any

import procrastinate
import uvloop

from benchmarks.measuring import CONNECTIONS

_LOOK_SECONDS = 0.005


async def measure(url: str, count: int, warm_up: int, concurrency: int) -> dict[str, Any]:
    """Seconds from the first enqueue to the end of the last task, as it is recorded."""
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=4, max_size=CONNECTIONS + 8)
    app = procrastinate.App(connector=connector)

    @app.task(name="nothing")
    async def nothing(number: int) -> None:
        return None

    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(app.run_worker_async(concurrency=concurrency, install_signal_handlers=False))

        async def defer(how_many: int) -> None:
            left = iter(range(how_many))

            async def one_after_the_other() -> None:
                for number in left:
                    await nothing.defer_async(number=number)

            await asyncio.gather(*(one_after_the_other() for _ in range(CONNECTIONS)))

        await defer(warm_up)
        await _ended(app)
        began = time.perf_counter()
        await defer(count)
        submitted = time.perf_counter() - began
        await _ended(app)
        seconds = time.perf_counter() - began
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
    return {"seconds": seconds, "submitted_in": submitted}


async def _ended(app: procrastinate.App) -> None:
    while (
        await app.connector.execute_query_one_async(
            "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing')) AS busy"
        )
    )["busy"]:
        await asyncio.sleep(_LOOK_SECONDS)


def main() -> None:
    """The command."""
    order = json.load(sys.stdin)
    print(json.dumps(uvloop.run(measure(order["url"], order["jobs"], order["warm_up"], order["concurrency"]))))


if __name__ == "__main__":
    main()
