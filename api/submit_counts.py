"""What became of submits, by task, for `/metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache, wraps
from typing import Any

from prometheus_client import Counter
from starlette.responses import Response

from api.call import Call
from core.errors import ApiError
from core.metrics import HELD_MICROS, IDEMPOTENT_REPLAYS, JOB_SUBMITS
from jobs.models import Accepted
from jobs.store import ROUTE
from tasks.registry import TASKS


def counted(
    submit: Callable[[Call[Any, Any]], Awaitable[Response]],
) -> Callable[[Call[Any, Any]], Awaitable[Response]]:
    """The handler of a submit, with its refusals counted."""

    @wraps(submit)
    async def counting(call: Call[Any, Any]) -> Response:
        try:
            return await submit(call)
        except ApiError as error:
            JOB_SUBMITS.labels(_known(call.body.task), error.code).inc()
            raise

    return counting


def count_accepted(accepted: Accepted) -> None:
    """Count a job that was accepted, now or by an earlier request with the same key."""
    job = accepted.job
    if accepted.replayed:
        JOB_SUBMITS.labels(job.task, "replayed").inc()
        IDEMPOTENT_REPLAYS.labels(ROUTE).inc()
        return
    accepted_jobs, held = _measures(job.task)
    accepted_jobs.inc()
    held.inc(job.amount_micros)


@cache
def _measures(task: str) -> tuple[Counter, Counter]:
    """Looked up once: `labels` costs as much as counting."""
    return JOB_SUBMITS.labels(task, "accepted"), HELD_MICROS.labels(task)


def _known(task: str) -> str:
    return task if task in TASKS else "unknown"
