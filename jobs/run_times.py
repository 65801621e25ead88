"""How long segments of jobs take, measured: the newest samples of each shape of each task."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.database import UNAVAILABLE, Database
from tasks.base import Task

SAMPLES_KEPT = 64
SAMPLES_NEEDED = 5
"""With fewer samples than these the prior is a better guess."""

_FRESH_SECONDS = 5.0
_KEEP = """
INSERT INTO run_time AS known (task, shape, samples) SELECT task, shape, samples::real[]
  FROM unnest($1::text[], $2::text[], $3::text[]) AS given (task, shape, samples) ORDER BY 1, 2
ON CONFLICT (task, shape) DO UPDATE SET updated_at = clock_timestamp(),
  samples = (known.samples || excluded.samples)
    [greatest(1, cardinality(known.samples) + cardinality(excluded.samples) - $4 + 1):]
"""


@dataclass(frozen=True)
class Measured:
    """Seconds that one segment took: the median and the 90th percentile of the newest samples."""

    median: float
    p90: float


def shape(task: Task[Any], effective_input: Mapping[str, Any], segment: int) -> str:
    """What inputs that take about the same time have in common: their prior to two significant digits, and their pool."""
    return f"{task.pools(effective_input)[segment]} {segment} {task.prior_seconds(effective_input):.2g}"


class RunTimeLog:
    """Collects samples in a dispatcher; `flush` writes them together, apart from any job's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._samples: dict[tuple[str, str], list[float]] = defaultdict(list)

    def note(self, task: Task[Any], effective_input: Mapping[str, Any], segment: int, seconds: float) -> None:
        """A segment succeeded after `seconds`."""
        self._samples[task.name, shape(task, effective_input, segment)].append(seconds)

    async def flush(self) -> None:
        """Write what was collected; what a database that is away did not take is forgotten."""
        samples, self._samples = self._samples, defaultdict(list)
        if samples:
            arrays = ["{" + ",".join(f"{each:.3f}" for each in mine[-SAMPLES_KEPT:]) + "}" for mine in samples.values()]
            tasks, shapes = zip(*samples, strict=True)
            await self._database.execute(_KEEP, list(tasks), list(shapes), arrays, SAMPLES_KEPT)


class RunTimes:
    """Reads what was measured; all of it is read again after five seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[str, str], Measured] = {}
        self._read_at = -_FRESH_SECONDS
        self._reading = asyncio.Lock()

    async def segment(self, task: Task[Any], effective_input: Mapping[str, Any], segment: int) -> Measured | None:
        """What such a segment took, or None when too few were measured."""
        async with self._reading:
            if time.monotonic() - self._read_at >= _FRESH_SECONDS:
                await self._read()
        return self._known.get((task.name, shape(task, effective_input, segment)))

    async def _read(self) -> None:
        try:
            rows = await self._database.fetch(
                "SELECT task, shape, percentiles[1] AS median, percentiles[2] AS p90 FROM run_time, LATERAL ("
                " SELECT percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY sample) AS percentiles"
                " FROM unnest(samples) AS sample) AS measured WHERE cardinality(samples) >= $1",
                SAMPLES_NEEDED,
            )
        except UNAVAILABLE:
            self._known = {}
            raise
        self._known = {(row["task"], row["shape"]): Measured(row["median"], row["p90"]) for row in rows}
        self._read_at = time.monotonic()
