"""`/media/outputs`: the end of what a job made, before its time."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

from api.call import Call
from api.idempotency import kept
from api.job_ids import job_id
from api.jobs import JobQuery
from api.routing import BASE, operation
from api.views import JobAnswer, job_answer
from core.clock import now
from core.errors import IdempotencyConflict, IdempotencyInProgress, NotFound, WrongState


@operation(
    "DELETE",
    f"{BASE}/media/outputs",
    tag="media",
    answer=JobAnswer,
    query=JobQuery,
    errors=(NotFound, WrongState, IdempotencyConflict, IdempotencyInProgress),
)
async def delete_outputs(call: Call[None, JobQuery]) -> Response:
    """Delete a job's outputs now instead of at their `deleteAt`. The job stays on record; again changes nothing."""
    services, account, wanted = call.services, call.account_id, job_id(call.query.job_id)

    async def delete() -> JobAnswer:
        await services.artifacts.delete_outputs(account, wanted)
        return job_answer(services, await services.jobs.get(account, wanted), details=False, instant=now())

    return await kept(call, HTTPStatus.OK, delete)
