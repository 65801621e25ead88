"""What a job is: the record that callers read, and what a submit, a lease and a worker's end hand over."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from jobs.states import State
from pricing.quotes import Quote

Priority = Literal["interactive", "standard", "batch"]

CLASSES: dict[Priority, int] = {"interactive": 1, "standard": 2, "batch": 3}


@dataclass(frozen=True)
class Submission:
    """A request that was validated and priced, ready to become a job.

    `inputs` are the SHA-256 digests of the stored media that `effective_input` names, none kept before `inputs_kept_at`.
    """

    account_id: UUID
    task: str
    effective_input: dict[str, Any]
    input_adjustments: list[dict[str, Any]]
    warnings: list[str]
    quote: Quote
    pools: tuple[str, ...]
    cost_seconds: float
    priority: Priority
    request_id: str
    idempotency_key: str | None
    fingerprint: bytes
    start_timeout_seconds: int
    cancel_after_seconds: int | None = None
    webhook_url: str | None = None
    inputs: tuple[bytes, ...] = ()
    inputs_kept_at: datetime | None = None


@dataclass(frozen=True)
class Attempt:
    """One start of a job. `replica` is opaque; `outcome` is None while it runs."""

    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    replica: str | None


@dataclass(frozen=True)
class Stage:
    """One step of the chain as it ran, with the seconds it held a GPU (or its engine)."""

    name: str
    started_at: datetime
    ended_at: datetime | None
    gpu_seconds: float


@dataclass(frozen=True)
class Job:
    """A job's record. `outputs` carry the internal `key` of each artifact, which no caller sees."""

    id: UUID
    account_id: UUID
    task: str
    state: State
    effective_input: dict[str, Any]
    input_adjustments: list[dict[str, Any]]
    warnings: list[str]
    billing: dict[str, Any]
    amount_micros: int
    hold_state: Literal["held", "captured", "released"]
    captured_at: datetime | None
    released_at: datetime | None
    progress: float
    stage: str | None
    sequence: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    stopped_at_step: int | None
    gpu_released_at: datetime | None
    engine: str | None
    weights_digest: str | None
    stand_in: bool | None
    outputs: list[dict[str, Any]]
    outputs_deleted_at: datetime | None
    failure: dict[str, Any] | None
    upstream: dict[str, Any] | None
    attempts: list[Attempt] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)


@dataclass(frozen=True)
class Accepted:
    """The answer of a submit: the job, what was available right after its hold (micro-dollars), whether it is a replay."""

    job: Job
    balance_after: int
    replayed: bool


@dataclass(frozen=True)
class Lease:
    """One segment of a job, given to one dispatcher. Everything it writes carries `fence`."""

    job_id: UUID
    fence: int
    account_id: UUID
    task: str
    segment: int
    effective_input: dict[str, Any]
    checkpoint: dict[str, Any] | None
    request_id: str


@dataclass(frozen=True)
class Failure:
    """Why a job failed, as its caller reads it."""

    code: str
    message: str
    retryable: bool
    path: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The `failure` object of a job."""
        parts = {"code": self.code, "message": self.message, "path": self.path, "retryable": self.retryable}
        return {key: value for key, value in parts.items() if value is not None}
