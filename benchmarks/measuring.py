"""How things are measured: in turns, round by round, and told by the median of the rounds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.results import Result

CONNECTIONS = 16

SCALE = float(os.environ.get("KILLATAMATA_BENCH_SCALE", "1"))
"""Every count and duration is multiplied by this; below 1 the numbers mean nothing and the code still runs."""


def scaled(count: int, least: int = 1) -> int:
    """`count` at the scale of this run, `least` at the least."""
    return max(least, round(count * SCALE))


ROUNDS = scaled(5)
ROUND_SECONDS = max(4.0 * SCALE, 0.2)


@dataclass(frozen=True)
class Round:
    """What one side did in one of its turns."""

    per_second: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, latencies: Sequence[float], seconds: float) -> Round:
        """From every call's latency and the time they took together, both in seconds.

        Raises:
            ValueError: there was no call.
        """
        return cls(len(latencies) / seconds, percentile(latencies, 50) * 1e3, percentile(latencies, 99) * 1e3)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


async def in_turns(rounds: int, *sides: Callable[[], Awaitable[Round]]) -> list[list[Round]]:
    """Every side's rounds, taken in turns after one turn each that does not count."""
    for side in sides:
        await side()
    taken: list[list[Round]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, mine in zip(sides, taken, strict=True):
            mine.append(await side())
    return taken


def cpu_in_turns(*sides: Callable[[], object]) -> list[float]:
    """Each side's median CPU seconds, after one turn that does not count."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS + 1):
        for side, mine in zip(sides, taken, strict=True):
            began = time.process_time()
            side()
            mine.append(time.process_time() - began)
    return [median(mine[1:]) for mine in taken]


async def at_once(seconds: float, calls: Sequence[Callable[[], Awaitable[object]]]) -> Round:
    """Each of `calls` again and again, all at once, for so long."""
    began = time.perf_counter()
    latencies: list[float] = []

    async def repeat(call: Callable[[], Awaitable[object]]) -> None:
        while (before := time.perf_counter()) - began < seconds:
            await call()
            latencies.append(time.perf_counter() - before)

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(repeat(call))
    return Round.of(latencies, time.perf_counter() - began)


def compared(
    name: str, ours: Sequence[Round], theirs: Sequence[Round], *, unit: str, versus: str, limit: float | None = None
) -> Iterator[Result]:
    """Throughput against its limit, p50 and p99 beside it."""
    yield Result(
        f"{name}.throughput",
        median(each.per_second for each in ours),
        unit,
        versus,
        median(each.per_second for each in theirs),
        "higher",
        limit,
    )
    yield Result(
        f"{name}.p50",
        median(each.p50_ms for each in ours),
        "ms",
        versus,
        median(each.p50_ms for each in theirs),
        "lower",
    )
    yield Result(
        f"{name}.p99",
        median(each.p99_ms for each in ours),
        "ms",
        versus,
        median(each.p99_ms for each in theirs),
        "lower",
    )
