"""How long a job will take: what waits before it in its pools, and its own run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.run_times import RunTimes
from jobs.snapshot import Queues
from tasks.base import Task

_P90_FACTOR = 1.6
"""Before anything was measured: the 90th percentile of a run over its prior, taken as 1.6."""


class Estimates:
    """Estimates from the queue's snapshot and measured run times; costs no query of its own."""

    def __init__(self, queues: Queues, run_times: RunTimes) -> None:
        self._queues = queues
        self._run_times = run_times

    async def estimate(self, task: Task[Any], effective_input: Mapping[str, Any]) -> dict[str, Any]:
        """The `durationEstimate` of a job that is submitted now, in seconds; measured when every segment was."""
        pools = task.pools(effective_input)
        queue_seconds = (await self._queues.snapshot()).queue_seconds(pools)
        found = [await self._run_times.segment(task, effective_input, number) for number in range(len(pools))]
        segments = [each for each in found if each is not None]
        measured = len(segments) == len(pools)
        run = sum(each.median for each in segments) if measured else task.prior_seconds(effective_input)
        p90 = sum(each.p90 for each in segments) if measured else run * _P90_FACTOR
        output = task.output_seconds(effective_input)
        return {
            "queueSeconds": round(queue_seconds, 1),
            "runSeconds": round(run, 1),
            "totalSeconds": round(queue_seconds + run, 1),
            "p90Seconds": round(queue_seconds + p90, 1),
            "outputSeconds": None if output is None else round(output, 6),
            "basis": "measured" if measured else "prior",
        }

    async def cost_seconds(self, task: Task[Any], effective_input: Mapping[str, Any]) -> float:
        """What the job's first segment costs its pool: the run time that fair queueing shares out."""
        first = await self._run_times.segment(task, effective_input, 0)
        return task.prior_seconds(effective_input) if first is None else max(first.median, 0.001)
