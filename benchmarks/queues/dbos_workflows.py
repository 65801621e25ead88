"""`python -m benchmarks.queues.dbos_workflows`: workflows of one step that does nothing, from enqueue to their end.

Reads `{"url", "jobs", "warm_up", "concurrency"}` and writes how long they took. Its defaults but for the polling interval,
which at 1 s would let it look far slower than it is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from dbos import DBOS

from benchmarks.measuring import CONNECTIONS

_POLL_SECONDS = 0.05
_LOOK_SECONDS = 0.005


async def measure(count: int, warm_up: int, concurrency: int) -> dict[str, Any]:
    """Seconds from the first enqueue to the end of the last workflow."""
    ended: set[int] = set()

    @DBOS.step()
    async def step(number: int) -> int:
        return number

    @DBOS.workflow()
    async def nothing(number: int) -> int:
        await step(number)
        ended.add(number)
        return number

    DBOS.launch()
    await asyncio.to_thread(
        DBOS.register_queue, "benchmark", polling_interval_sec=_POLL_SECONDS, worker_concurrency=concurrency
    )

    async def enqueue(how_many: int) -> None:
        left = iter(range(how_many))

        async def one_after_the_other() -> None:
            for number in left:
                await DBOS.enqueue_workflow_async("benchmark", nothing, number)

        await asyncio.gather(*(one_after_the_other() for _ in range(CONNECTIONS)))

    await enqueue(warm_up)
    while len(ended) < warm_up:
        await asyncio.sleep(_LOOK_SECONDS)
    ended.clear()
    began = time.perf_counter()
    await enqueue(count)
    submitted = time.perf_counter() - began
    while len(ended) < count:
        await asyncio.sleep(_LOOK_SECONDS)
    return {"seconds": time.perf_counter() - began, "submitted_in": submitted}


def main() -> None:
    """The command."""
    order = json.load(sys.stdin)
    DBOS(
        config={
            "name": "benchmark",
            "system_database_url": order["url"],
            "application_version": "1",
            "executor_id": "benchmark",
            "log_level": "ERROR",
        }
    )
    try:
        answer = asyncio.run(measure(order["jobs"], order["warm_up"], order["concurrency"]))
    finally:
        DBOS.destroy()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
