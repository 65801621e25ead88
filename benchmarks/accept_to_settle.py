"""How many jobs a second go from accepted to settled when the work itself takes no time?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from statistics import median

from benchmarks.measuring import Round, in_turns, scaled
from benchmarks.processes import from_process
from benchmarks.results import Result
from benchmarks.services import administer, created, service_settings, url_of
from killatamata.embedded_postgres import EmbeddedPostgres

JOBS = scaled(1_500, 20)
WARM_UP = scaled(300, 1)
"""Jobs of each side that go before and do not count: until then a connection of PostgreSQL plans every statement anew."""
CONCURRENCY = 32
_ROUNDS = scaled(3)

RIVALS = {
    "procrastinate": ("benchmarks.queues.procrastinate_tasks", "procrastinate 3.10, enqueue to end, 32 at once"),
    "dbos": ("benchmarks.queues.dbos_workflows", "DBOS 3.4, enqueue to end, 32 at once, polled each 0.05 s"),
}


async def accept_to_settle(postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """`Jobs.submit` to settled, a chain without a Ray step ÷ tasks that do nothing in other queues on the same server.

    Submitters and workers of each side share one process; 16 submit at a time. A job of ours moves money twice.
    """
    rivals = {name: rival for name, rival in RIVALS.items() if find_spec(name) is not None}
    async with created(postgres, "ours"):
        for name in rivals:
            await administer(postgres, f"CREATE DATABASE {name}")
        sides: list[Callable[[], Awaitable[Round]]] = [partial(_turn, postgres, "ours", "benchmarks.queues.ours")]
        sides += [partial(_turn, postgres, name, module) for name, (module, _) in rivals.items()]
        ours, *theirs = await in_turns(_ROUNDS, *sides)
        for name in rivals:
            await administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")
    for (name, (_, versus)), rounds in zip(rivals.items(), theirs, strict=True):
        yield Result(
            f"accept_to_settle.versus_{name}",
            median(each.per_second for each in ours),
            "jobs/s",
            versus,
            median(each.per_second for each in rounds),
            "higher",
            3,
        )


async def _turn(postgres: EmbeddedPostgres, database: str, module: str) -> Round:
    url = url_of(postgres, database)
    order = {"url": url, "jobs": JOBS, "warm_up": WARM_UP, "concurrency": CONCURRENCY}
    with service_settings(url) as settings:
        answer = await from_process(module, order, settings)
    return Round(JOBS / answer["seconds"], answer["submitted_in"] * 1e3, answer["seconds"] * 1e3)
