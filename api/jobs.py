"""`/media/jobs`: submit, read, list, cancel."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from pydantic import Field, RootModel
from pydantic.alias_generators import to_camel
from starlette.responses import Response

from api import waiting
from api.call import Call
from api.cursors import MAX_CHARACTERS
from api.idempotency import REPLAYED, kept
from api.job_ids import job_id
from api.models import Answer, Query, json_response
from api.offers import JobBody, OfferQuery, forms, offer
from api.routing import BASE, operation
from api.seen import Seen
from api.services import Services
from api.submit_counts import count_accepted, counted
from api.views import AcceptedAnswer, JobAnswer, accepted_answer, job_answer, job_url, live
from core.clock import now
from core.errors import (
    FieldProblem,
    IdempotencyConflict,
    IdempotencyInProgress,
    InsufficientBalance,
    NotFound,
    OverMaxCost,
    PoolOverloaded,
    QueueFull,
    QuoteExpired,
    QuoteMismatch,
    RateLimited,
    StorageUnavailable,
    TaskUnavailable,
)
from jobs.models import Accepted, Submission
from jobs.states import State
from jobs.store import NEVER
from tasks.fields import Text
from tasks.registry import TASKS
from tasks.registry import task as task_named
from tasks.validation import refusal

PATH = f"{BASE}/media/jobs"
POLL_SECONDS = 1
_LIST = "jobs"


class JobQuery(Query):
    """Which job."""

    job_id: Text = Field(description="The jobId of a submit.")


class JobsQuery(Query):
    """One job, or a page of them."""

    job_id: Text | None = Field(None, description="Read this one job; without it, list.")
    include_details: bool = Field(
        False, description="With jobId: add details: input, adjustments, attempts, stages, upstream."
    )
    cursor: Annotated[Text, Field(max_length=MAX_CHARACTERS)] | None = Field(
        None, description="Without jobId: nextCursor of the page before."
    )
    limit: Annotated[int, Field(ge=1, le=100)] = Field(20, description="Without jobId: how many jobs a page has.")
    status: State | None = Field(None, description="Without jobId: only jobs in this state.")
    task: Text | None = Field(None, description="Without jobId: only jobs of this task.")


class JobsAnswer(Answer):
    """A page of jobs, newest first."""

    jobs: list[JobAnswer]
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")


class JobOrJobs(RootModel[JobAnswer | JobsAnswer]):
    """With jobId the job, without it a page of jobs."""


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
        PoolOverloaded,
        QueueFull,
        RateLimited,
        StorageUnavailable,
        TaskUnavailable,
    ),
    also={HTTPStatus.OK: JobAnswer},
    headers={waiting.HEADER: waiting.DESCRIPTION},
)
@counted
async def submit_job(call: Call[JobBody, OfferQuery]) -> Response:
    """Submit a job. Its price is held now, captured by success, and released by any other end.

    A replay gives the first 202 again, whatever became of the job since; its estimate and the token of its eventsUrl are
    new. `Prefer: wait` asks for the job's end, so each replay with it honours it anew: 200 with the finished job, or 202.
    """
    seconds = waiting.wished(call.request.headers, call.services.settings.prefer_wait_seconds)
    accepted = await _admit(call)
    # The caller may wait for its job, and its media need not wait with it.
    call.body.input.clear()
    call.guest.leave()
    return await _answered(call, accepted, seconds)


async def _admit(call: Call[JobBody, OfferQuery]) -> Accepted:
    services, body = call.services, call.body
    try:
        made = await offer(call, body.quote_token)
    except (QuoteExpired, OverMaxCost):
        # A retry of what was accepted in time: its first answer stands, whatever the clock and the prices say now.
        earlier = await _earlier(call)
        if earlier is None:
            raise
        return earlier
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
    try:
        await services.admission.check(call.account_id, submission.pools, submission.cost_seconds)
    except PoolOverloaded:
        earlier = await _earlier(call)
        if earlier is None:
            raise
        return earlier
    try:
        if made.files:
            earlier = await _earlier(call)
            if earlier is not None:
                return earlier
            sizes = [len(file.content) for file in made.files]
            await services.jobs.admit(submission, sizes, most_bytes=services.settings.inline_bytes_a_day)
            submission = replace(submission, inputs_kept_at=await services.inputs.keep(made.files))
        accepted = await services.jobs.submit(submission)
    except InsufficientBalance as error:
        error.details["topUpUrl"] = f"{services.base_url}/dashboard"
        raise
    services.wakeup.ask()
    return accepted


async def _earlier(call: Call[JobBody, OfferQuery]) -> Accepted | None:
    """What an earlier submit with the call's key made, if any."""
    if call.idempotency_key is None:
        return None
    return await call.services.jobs.replayed(call.account_id, call.idempotency_key, call.fingerprint)


async def _answered(call: Call[JobBody, OfferQuery], accepted: Accepted, seconds: int | None) -> Response:
    count_accepted(accepted)
    services, job = call.services, accepted.job
    headers = REPLAYED if accepted.replayed else {}
    if seconds is not None:
        current = await services.jobs.get(call.account_id, job.id) if accepted.replayed else job
        if await waiting.has_ended(call.request, services.hub, current, seconds):
            ended = await services.jobs.get(call.account_id, job.id)
            headers = headers | waiting.applied(seconds)
            return job_answer(services, ended, details=False, instant=now()).response(headers=headers)
    duration = await services.estimates.estimate(TASKS[job.task], job.effective_input)
    answer = accepted_answer(services, accepted, duration, call.known_caller)
    return answer.response(HTTPStatus.ACCEPTED, headers | {"Location": job_url(services, job.id)})


@operation(
    "GET",
    PATH,
    tag="media",
    answer=JobOrJobs,
    query=JobsQuery,
    errors=(NotFound,),
    answer_headers={HTTPStatus.OK: ["Retry-After"]},
)
async def get_jobs(call: Call[None, JobsQuery]) -> Response:
    """Read a job by its jobId, or list jobs, newest first. A failed job is an answer too, not an error."""
    query, given = call.query, call.query.model_fields_set
    alien = given & ({"cursor", "limit", "status", "task"} if query.job_id is not None else {"include_details"})
    if alien:
        problem = "belongs to a list" if query.job_id is not None else "needs a jobId"
        raise refusal([FieldProblem(to_camel(name), f"{problem}: leave it out") for name in sorted(alien)])
    if query.job_id is None:
        return await _page(call)
    wanted = job_id(query.job_id)
    if query.include_details:
        services = call.services
        job = await services.jobs.get(call.account_id, wanted, details=True)
        position = await _position(services, job.id) if job.state == "queued" else None
        answer = job_answer(services, job, details=True, instant=now(), queue_position=position)
        return answer.response(headers=_poll_again(answer))
    return await _one(call, wanted)


async def _one(call: Call[None, JobsQuery], wanted: UUID) -> Response:
    services = call.services
    seen = services.seen.get(wanted)
    version, job = await services.jobs.changed(call.account_id, wanted, seen.version if seen else NEVER)
    if job is None:
        assert seen is not None
        answer = seen.answer
    else:
        answer, seen = job_answer(services, job, details=False, instant=now()), None
    if answer.status == "queued":
        position = await _position(services, wanted)
        if position != answer.queue_position:
            answer, seen = answer.model_copy(update={"queue_position": position}), None
    if seen is None:
        seen = Seen(version, answer, answer.text())
        # The URLs of a finished job are signed afresh each time, and nobody polls it any more.
        if live(answer.status):
            services.seen.keep(wanted, seen)
        else:
            services.seen.forget(wanted)
    return json_response(seen.text, headers=_poll_again(answer))


async def _position(services: Services, wanted: UUID) -> int | None:
    return (await services.queues.snapshot()).positions.get(wanted)


async def _page(call: Call[None, JobsQuery]) -> Response:
    query, services, account = call.query, call.services, call.account_id
    if query.task is not None:
        task_named(query.task)
    before = None
    if query.cursor is not None:
        before = UUID(str(services.cursors.read(_LIST, account, query.cursor)[0]))
    limit = query.limit
    found = await services.jobs.page(account, limit=limit + 1, before=before, state=query.status, task=query.task)
    shown, more = found[:limit], len(found) > limit
    positions = (await services.queues.snapshot()).positions if any(job.state == "queued" for job in shown) else {}
    instant = now()
    return JobsAnswer(
        jobs=[
            job_answer(services, job, details=False, instant=instant, queue_position=positions.get(job.id))
            for job in shown
        ],
        next_cursor=services.cursors.seal(_LIST, account, [str(shown[-1].id)]) if more else None,
    ).response()


@operation(
    "DELETE",
    PATH,
    tag="media",
    answer=JobAnswer,
    query=JobQuery,
    errors=(NotFound, IdempotencyConflict, IdempotencyInProgress),
    answer_headers={HTTPStatus.OK: ["Retry-After"]},
)
async def cancel_job(call: Call[None, JobQuery]) -> Response:
    """Cancel a job: a queued one at once, a running one within a model step. A late cancel changes nothing."""
    services, wanted, headers = call.services, job_id(call.query.job_id), {}

    async def cancel() -> JobAnswer:
        most_running = services.settings.running_cancels_a_day
        job = await services.jobs.cancel(call.account_id, wanted, call.request_id, most_running=most_running)
        services.wakeup.tell(job.id)
        answer = job_answer(services, job, details=False, instant=now())
        headers.update(_poll_again(answer))
        return answer

    answer = await kept(call, HTTPStatus.OK, cancel)
    answer.headers.update(headers)
    return answer


def _poll_again(answer: JobAnswer) -> dict[str, str]:
    return {"Retry-After": str(POLL_SECONDS)} if live(answer.status) else {}
