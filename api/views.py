"""A job as its caller sees it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from accounts.keys import Caller
from api.models import Answer, Instant, Micros, Usd
from api.routing import BASE
from api.services import Services
from core.clock import now
from core.ids import encode
from core.money import usd
from jobs.models import Accepted, Job
from jobs.states import FINAL, State

_MEDIA_FIELD = re.compile(r"(?:image|audio|video)(?:url)?s?$", re.IGNORECASE)


class LineItem(Answer):
    """One line of a bill."""

    label: str
    quantity: str = Field(description="A plain decimal.")
    unit: str
    unit_price_usd: str = Field(description="A plain decimal.")
    amount_micros: Micros


class Price(Answer):
    """What a job costs, whatever its run takes. The lines add up exactly."""

    currency: Literal["USD"]
    amount_usd: Usd
    amount_micros: Micros
    price_book_version: str
    line_items: list[LineItem]


class Billing(Price):
    """A job's price, and where the money is: held at submit, captured by success, released by any other end."""

    state: Literal["held", "captured", "released"]
    captured_at: Instant | None = None
    released_at: Instant | None = None
    balance_after_usd: Usd | None = Field(None, description="What was available right after the submit; only there.")


class DurationEstimate(Answer):
    """How long a job may take, in seconds. A prior was assumed, not measured."""

    queue_seconds: float
    run_seconds: float
    total_seconds: float
    p90_seconds: float
    output_seconds: float | None = Field(description="Length of the output as far as the input tells, of speech about.")
    basis: Literal["measured", "prior"]


class Adjustment(Answer):
    """A value that was changed to one that can be made."""

    field: str
    from_: Any = Field(alias="from")
    to: Any
    reason: str
    at: Literal["submit", "run"]


class Output(Answer):
    """A file that a job made. Which measures it has depends on what it is."""

    model_config = ConfigDict(extra="allow")

    role: Literal["primary", "poster", "thumbnail", "preview", "waveform"]
    url: str | None = Field(description="Signed afresh by every GET; null once the file was deleted.")
    mime_type: str
    bytes: int
    sha256: str
    expires_at: Instant | None = Field(description="The end of this URL; ask again for a fresh one.")
    delete_at: Instant = Field(description="The end of the file.")
    width: int | None = None
    height: int | None = None
    duration_seconds: float | None = None
    frames: int | None = None
    fps: float | None = None
    sample_rate: int | None = None
    faces: int | None = None
    blurhash: str | None = Field(
        None, description="Of a picture: some 30 characters to paint a blurred placeholder from (blurha.sh)."
    )


class Failure(Answer):
    """Why a job failed; nothing was charged."""

    code: str
    message: str
    path: str | None = None
    retryable: bool


class Attempt(Answer):
    """One start of a job."""

    started_at: Instant
    ended_at: Instant | None
    outcome: str | None
    replica: str | None


class Stage(Answer):
    """One step of a job as it ran."""

    name: str
    started_at: Instant
    ended_at: Instant | None
    gpu_seconds: float


class Details(Answer):
    """What was asked, what became of it, and how it was made."""

    effective_input: dict[str, Any]
    input_adjustments: list[Adjustment]
    attempts: list[Attempt]
    stages: list[Stage]
    upstream: dict[str, Any] | None


class JobIds(Answer):
    """A job's id, under the three names that clients look for."""

    job_id: str = Field(examples=["job_01jd3x8v5kf4k9s2t6w7y8z9ab"])
    id: str
    external_job_id: str
    task: str
    status: State


class AcceptedAnswer(JobIds):
    """A job that was accepted and paid for."""

    billing: Billing
    duration_estimate: DurationEstimate
    effective_input: dict[str, Any]
    input_adjustments: list[Adjustment]
    warnings: list[str]
    status_url: str
    events_url: str = Field(
        description="Server-sent events of this job. Its token is good for an hour or so, for this alone, and no longer "
        "than the key that submitted."
    )
    cancel_url: str = Field(description="DELETE it to cancel.")


class JobAnswer(JobIds):
    """A job's state. A failed job has `error` and `failure`."""

    progress: float = Field(ge=0, le=1)
    stage: str | None
    queue_position: int | None
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    sequence: int = Field(description="Grows with every change.")
    billing: Billing
    downloadable_output_urls: list[str] = Field(description="The deliverable; empty before success and after expiry.")
    outputs: list[Output]
    engine: str | None
    weights_digest: str | None
    stand_in: bool | None = Field(description="Made by a small stand-in for the production engine.")
    cancel_requested_at: Instant | None
    stopped_at_step: int | None
    gpu_released_at: Instant | None
    error: str | None = Field(None, description="Only of a failed job: the code in failure.")
    failure: Failure | None = None
    details: Details | None = Field(None, description="Only with includeDetails=1.")


def job_url(services: Services, job_id: UUID) -> str:
    """Where a job is read and cancelled."""
    return f"{services.base_url}{BASE}/media/jobs?jobId={encode('job', job_id)}"


def events_url(services: Services, job_id: UUID, caller: Caller) -> str:
    """Where a job's events are read for a while without a key."""
    expires_at = now() + timedelta(seconds=services.settings.event_token_seconds)
    token = services.event_tokens.sign(job_id, caller.key_prefix, expires_at)
    return f"{services.base_url}{BASE}/media/jobs/events?jobId={encode('job', job_id)}&token={token}"


def accepted_answer(services: Services, accepted: Accepted, estimate: dict[str, Any], caller: Caller) -> AcceptedAnswer:
    """The answer to the submit of `caller`."""
    job = accepted.job
    billing = {**_billing(job), "balanceAfterUsd": usd(accepted.balance_after)}
    url = job_url(services, job.id)
    return AcceptedAnswer(
        **_ids(job),
        billing=Billing(**billing),
        duration_estimate=DurationEstimate(**estimate),
        effective_input=public_input(job.effective_input),
        input_adjustments=[Adjustment(**change) for change in job.input_adjustments],
        warnings=job.warnings,
        status_url=url,
        events_url=events_url(services, job.id, caller),
        cancel_url=url,
    )


def job_answer(
    services: Services, job: Job, *, details: bool, instant: datetime, queue_position: int | None = None
) -> JobAnswer:
    """The job as it stands at `instant`; `details` needs one that was read with them."""
    outputs = _outputs(services, job, instant)
    extra: dict[str, Any] = {}
    if job.failure is not None:
        extra |= {"error": job.failure["code"], "failure": Failure(**job.failure)}
    if details:
        extra["details"] = _details(job)
    return JobAnswer(
        **_ids(job),
        progress=job.progress,
        stage=job.stage,
        queue_position=queue_position,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        sequence=job.sequence,
        billing=Billing(**_billing(job)),
        downloadable_output_urls=[each.url for each in outputs if each.role == "primary" and each.url is not None],
        outputs=outputs,
        engine=job.engine,
        weights_digest=job.weights_digest,
        stand_in=job.stand_in,
        cancel_requested_at=job.cancel_requested_at,
        stopped_at_step=job.stopped_at_step,
        gpu_released_at=job.gpu_released_at,
        **extra,
    )


def live(state: State) -> bool:
    """Whether a job in this state has not ended."""
    return state not in FINAL


def public_input(effective_input: dict[str, Any]) -> dict[str, Any]:
    """An effective input without URLs' query strings."""
    return {name: _shown(value, bool(_MEDIA_FIELD.search(name))) for name, value in effective_input.items()}


def _shown(value: Any, media: bool) -> Any:
    match value:
        case list():
            return [_shown(item, media) for item in value]
        case str() if media:
            return re.split(r"[?#]", value, maxsplit=1)[0]
        case _:
            return value


def _ids(job: Job) -> dict[str, Any]:
    text = encode("job", job.id)
    return {"jobId": text, "id": text, "externalJobId": text, "task": job.task, "status": job.state}


def _billing(job: Job) -> dict[str, Any]:
    ends = {"capturedAt": job.captured_at, "releasedAt": job.released_at}
    return {**job.billing, "state": job.hold_state, **{name: at for name, at in ends.items() if at is not None}}


def _outputs(services: Services, job: Job, instant: datetime) -> list[Output]:
    if job.finished_at is None:
        return []
    settings = services.settings
    ends = [job.finished_at + timedelta(days=settings.output_days), job.outputs_deleted_at]
    delete_at = min(end for end in ends if end is not None)
    expires_at = min(instant + timedelta(seconds=settings.output_url_seconds), delete_at)
    kept = job.outputs_deleted_at is None and instant < delete_at
    found = []
    for record in job.outputs:
        known = {name: value for name, value in record.items() if name != "key"}
        role = "" if record["role"] == "primary" else f"-{record['role']}"
        filename = encode("job", job.id) + role + PurePosixPath(record["key"]).suffix
        url = services.store.url(record["key"], expires_at=expires_at, filename=filename) if kept else None
        found.append(Output(**known, url=url, expires_at=expires_at if kept else None, delete_at=delete_at))
    return found


def _details(job: Job) -> Details:
    return Details(
        effective_input=public_input(job.effective_input),
        input_adjustments=[Adjustment(**change) for change in job.input_adjustments],
        attempts=[
            Attempt(started_at=each.started_at, ended_at=each.ended_at, outcome=each.outcome, replica=each.replica)
            for each in job.attempts
        ],
        stages=[
            Stage(name=each.name, started_at=each.started_at, ended_at=each.ended_at, gpu_seconds=each.gpu_seconds)
            for each in job.stages
        ],
        upstream=job.upstream,
    )
