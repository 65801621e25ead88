"""What does a durable job cost beside the streaming handle call that it makes?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from benchmarks.measuring import Round, compared, scaled
from benchmarks.processes import from_process
from benchmarks.results import Result
from benchmarks.services import created, service_settings, url_of
from killatamata.embedded_postgres import EmbeddedPostgres

REPLICAS = 2
JOBS = scaled(400, 5)


async def model_step(postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """Submitted jobs with one model step that takes no time ÷ bare streaming handle calls, as many at once."""
    ours, theirs = await in_cluster(postgres, "model_step", REPLICAS, JOBS)
    versus = f"bare streaming handle calls, {REPLICAS} replicas, {REPLICAS} at once"
    for result in compared("model_step", ours, theirs, unit="jobs/s", versus=versus, limit=0.5):
        yield result


async def in_cluster(postgres: EmbeddedPostgres, measure: str, replicas: int, count: int) -> list[list[Round]]:
    """The rounds of both sides, from a Ray of their own."""
    async with created(postgres, measure):
        url = url_of(postgres, measure)
        with service_settings(url) as settings:
            order: dict[str, Any] = {"url": url, "measure": measure, "replicas": replicas, "count": count}
            sides = await from_process("benchmarks.cluster_side", order, settings)
    return [[Round(**each) for each in side] for side in sides]
