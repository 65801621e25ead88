"""`/media/jobs`: submit, read, cancel."""

from __future__ import annotations

from http import HTTPStatus
from uuid import UUID

from pydantic import Field
from starlette.responses import Response

from api.call import Call
from api.idempotency import REPLAYED
from api.models import Query
from api.offers import JobBody, OfferQuery, forms, offer
from api.routing import BASE, operation
from api.views import AcceptedAnswer, JobAnswer, accepted_answer, job_answer, job_url, live
from core.clock import now
from core.errors import (
    IdempotencyConflict,
    IdempotencyInProgress,
    InsufficientBalance,
    NotFound,
    OverMaxCost,
    QueueFull,
    QuoteExpired,
    QuoteMismatch,
    RateLimited,
    TaskUnavailable,
)
from core.ids import decode
from jobs.models import Accepted, Job, Submission
from tasks.fields import Text
from tasks.registry import TASKS

PATH = f"{BASE}/media/jobs"
POLL_SECONDS = 1


class JobQuery(Query):
    """Which job."""

    job_id: Text = Field(description="The jobId of a submit.")


class JobDetailsQuery(JobQuery):
    """Which job, and how much of it."""

    include_details: bool = Field(False, description="Add details: input, adjustments, attempts, stages, upstream.")


@operation(
    "POST",
    PATH,
    tag="media",
    answer=AcceptedAnswer,
    status=HTTPStatus.ACCEPTED,
    body=JobBody,
    forms=forms(JobBody, "Job"),
    query=OfferQuery,
    errors=(
        InsufficientBalance,
        IdempotencyConflict,
        IdempotencyInProgress,
        QuoteMismatch,
        QuoteExpired,
        OverMaxCost,
        QueueFull,
        RateLimited,
        TaskUnavailable,
    ),
)
async def submit_job(call: Call[JobBody, OfferQuery]) -> Response:
    """Submit a job. Its price is held now, captured by success, and released by any other end."""
    services, body = call.services, call.body
    try:
        made = await offer(call, body.quote_token)
    except (QuoteExpired, OverMaxCost):
        # A retry of what was accepted in time: its first answer stands, whatever the clock and the prices say now.
        if call.idempotency_key is None:
            raise
        earlier = await services.jobs.replayed(call.account_id, call.idempotency_key, call.fingerprint)
        if earlier is None:
            raise
        return await _accepted(call, earlier)
    effective = made.prepared.effective_input
    submission = Submission(
        account_id=call.account_id,
        task=made.task.name,
        effective_input=effective,
        input_adjustments=made.adjustments,
        warnings=list(made.prepared.warnings),
        quote=made.quote,
        pools=made.task.pools(effective),
        cost_seconds=await services.estimates.cost_seconds(made.task, effective),
        priority=body.priority,
        request_id=call.request_id,
        idempotency_key=call.idempotency_key,
        fingerprint=call.fingerprint,
        start_timeout_seconds=body.start_timeout_seconds or services.settings.start_timeout_seconds,
        cancel_after_seconds=body.cancel_after_seconds,
        webhook_url=body.webhook_url,
        inputs=tuple(file.sha256 for file in made.files),
    )
    await services.inputs.keep(made.files)
    try:
        accepted = await services.jobs.submit(submission)
    except InsufficientBalance as error:
        error.details["topUpUrl"] = f"{services.base_url}/dashboard"
        raise
    services.wakeup.ask()
    return await _accepted(call, accepted)


async def _accepted(call: Call[JobBody, OfferQuery], accepted: Accepted) -> Response:
    job = accepted.job
    duration = await call.services.estimates.estimate(TASKS[job.task], job.effective_input)
    headers = {"Location": job_url(call.services, job.id), **(REPLAYED if accepted.replayed else {})}
    return accepted_answer(call.services, accepted, duration).response(HTTPStatus.ACCEPTED, headers)


@operation("GET", PATH, tag="media", answer=JobAnswer, query=JobDetailsQuery, errors=(NotFound,))
async def get_job(call: Call[None, JobDetailsQuery]) -> Response:
    """Read a job. A failed job is an answer too, not an error."""
    details = call.query.include_details
    job = await call.services.jobs.get(call.account_id, _id(call.query.job_id), details=details)
    return await _answer(call, job, details=details)


@operation("DELETE", PATH, tag="media", answer=JobAnswer, query=JobQuery, errors=(NotFound,))
async def cancel_job(call: Call[None, JobQuery]) -> Response:
    """Cancel a job: a queued one at once, a running one within a model step. A late cancel changes nothing."""
    most_running = call.services.settings.running_cancels_a_day
    job_id = _id(call.query.job_id)
    job = await call.services.jobs.cancel(call.account_id, job_id, call.request_id, most_running=most_running)
    return await _answer(call, job, details=False)


def _id(text: str) -> UUID:
    found = decode("job", text)
    if found is None:
        raise NotFound("There is no such job; send the jobId of a submit.")
    return found


async def _answer(call: Call[None, JobDetailsQuery] | Call[None, JobQuery], job: Job, *, details: bool) -> Response:
    waits = job.state == "queued"
    position = (await call.services.queues.snapshot()).positions.get(job.id) if waits else None
    headers = {"Retry-After": str(POLL_SECONDS)} if live(job) else {}
    answer = job_answer(call.services, job, details=details, instant=now(), queue_position=position)
    return answer.response(headers=headers)
