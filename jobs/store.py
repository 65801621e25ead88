"""The callers' side of jobs: submit, read, list, cancel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from accounts import idempotency
from core.batches import Batches
from core.database import Database
from core.errors import (
    IdempotencyConflict,
    InsufficientBalance,
    NotFound,
    QueueFull,
    RateLimited,
    StorageUnavailable,
    TaskUnavailable,
)
from core.ids import uuid7
from core.money import usd
from jobs.models import CLASSES, Accepted, Attempt, Job, Stage, Submission
from jobs.states import State

Version: TypeAlias = tuple[int, int]
"""Which writing of a job's row and of its hold's somebody has read: the transactions that made them."""
NEVER: Version = (0, 0)
"""Older than any."""

_Asked: TypeAlias = tuple[UUID, UUID, Version]

ROUTE = "POST /media/jobs"
CANCEL_PAUSE = timedelta(minutes=10)

_SUBMIT = (
    "SELECT job_id, replayed, created_at, balance_after FROM"
    " submit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)"
)

_COLUMNS = """
  job.id, job.account_id, job.task, job.effective_input, job.input_adjustments, job.warnings, job.billing,
  CASE WHEN job.state = 'queued' AND job.segment > 0 THEN 'running' ELSE job.state END AS state,
  job.amount AS amount_micros, hold.state AS hold_state,
  CASE hold.state WHEN 'captured' THEN hold.ended_at END AS captured_at,
  CASE hold.state WHEN 'released' THEN hold.ended_at END AS released_at,
  job.progress, job.stage, job.sequence, job.created_at, job.started_at, job.finished_at, job.cancel_requested_at,
  job.stopped_at_step, job.gpu_released_at, job.engine, job.weights_digest, job.stand_in, job.outputs,
  job.outputs_deleted_at, job.failure, job.upstream
"""
_SOME = f"""
SELECT job.account_id AS owner, asked.*, job.xmin AS job_version, hold.xmin AS hold_version, changed.*
FROM unnest($1::uuid[], $2::xid[], $3::xid[]) AS asked (asked_id, asked_job, asked_hold)
  JOIN job ON job.id = asked_id JOIN hold ON hold.id = job.id
  LEFT JOIN LATERAL (SELECT {_COLUMNS}) AS changed
    ON NOT (job.xmin = asked_job AND hold.xmin = asked_hold)
"""
_PAGE = f"""SELECT {_COLUMNS} FROM job JOIN hold ON hold.id = job.id
WHERE job.account_id = $1 AND job.id < $2 AND ($3::text IS NULL OR job.task = $3)
  AND ($4::text IS NULL OR CASE $4 WHEN 'queued' THEN job.state = 'queued' AND job.segment = 0
    WHEN 'running' THEN job.state = 'running' OR (job.state = 'queued' AND job.segment > 0) ELSE job.state = $4 END)
ORDER BY job.id DESC LIMIT $5"""
_FIELDS = tuple(field.name for field in fields(Job) if field.name not in ("attempts", "stages"))
_NEWEST = UUID(int=2**128 - 1)
_NEW: Mapping[str, Any] = {
    "state": "queued",
    "hold_state": "held",
    "captured_at": None,
    "released_at": None,
    "progress": 0.0,
    "stage": None,
    "started_at": None,
    "finished_at": None,
    "cancel_requested_at": None,
    "stopped_at_step": None,
    "gpu_released_at": None,
    "engine": None,
    "weights_digest": None,
    "stand_in": None,
    "outputs": [],
    "outputs_deleted_at": None,
    "failure": None,
    "upstream": None,
}
"""What every job is right after its submit."""


class Jobs:
    """The jobs of all accounts, in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read = Batches(self._read_some)

    async def _read_some(self, asked: Sequence[_Asked]) -> dict[_Asked, tuple[Version, Job | None]]:
        ids, jobs, holds = zip(*((job_id, *version) for _, job_id, version in asked), strict=True)
        rows = await self._database.fetch(_SOME, ids, jobs, holds)
        return {
            (row["owner"], row["asked_id"], (row["asked_job"], row["asked_hold"])): (
                (row["job_version"], row["hold_version"]),
                None if row["id"] is None else Job(**{name: row[name] for name in _FIELDS}),
            )
            for row in rows
        }

    async def submit(self, submission: Submission) -> Accepted:
        """Accept a job: record, hold, queue row and first event, or nothing at all; a replay gives the first one, as it was.

        Raises:
            InsufficientBalance: the available balance is below the price.
            IdempotencyConflict: the key was used for another body.
            IdempotencyInProgress: a twin is still at work.
            QueueFull: the account has as many jobs waiting as it may.
            RateLimited: the account's submits are paused.
            TaskUnavailable: the fleet has no pool for the task.
            StorageUnavailable: an input is no longer stored.
        """
        quote, new = submission.quote, uuid7()
        billing, cancel_after = quote.billing_json(), submission.cancel_after_seconds
        try:
            row = await self._database.fetch_row(
                _SUBMIT,
                new,
                submission.account_id,
                submission.task,
                submission.effective_input,
                submission.input_adjustments,
                submission.warnings,
                billing,
                quote.amount_micros,
                list(submission.pools),
                submission.cost_seconds,
                CLASSES[submission.priority],
                submission.request_id,
                ROUTE,
                submission.idempotency_key,
                submission.fingerprint,
                timedelta(seconds=submission.start_timeout_seconds),
                None if cancel_after is None else timedelta(seconds=cancel_after),
                submission.webhook_url,
                list(submission.inputs),
                submission.inputs_kept_at,
            )
        except asyncpg.PostgresError as error:
            raise _translated(error, submission) from None
        assert row is not None
        if row["replayed"]:
            return await self._replay(submission.account_id, row["job_id"])
        return Accepted(_fresh(submission, new, billing, row["created_at"]), row["balance_after"], replayed=False)

    async def admit(self, submission: Submission, sizes: Sequence[int], *, most_bytes: int) -> None:
        """Before anything of a submit is stored: refuse what `submit` would refuse, and count what its inputs bring.

        `sizes` are the bytes of each of its `inputs`; those not yet stored count for a day, at most `most_bytes` in all.

        Raises:
            InsufficientBalance, QueueFull, TaskUnavailable: as `submit`.
            RateLimited: the account's submits are paused, or it sent too many bytes inside requests.
        """
        try:
            await self._database.execute(
                "SELECT inputs_admit($1, $2, $3, $4, $5, $6)",
                submission.account_id,
                submission.quote.amount_micros,
                list(submission.pools),
                list(submission.inputs),
                list(sizes),
                most_bytes,
            )
        except asyncpg.PostgresError as error:
            if error.sqlstate == "KT431":
                raise _too_many_bytes(error, sum(sizes), most_bytes) from None
            raise _translated(error, submission) from None

    async def replayed(self, account_id: UUID, idempotency_key: str, fingerprint: bytes) -> Accepted | None:
        """The job of an earlier submit with this key, as it was: a retry needs neither a live quote nor the money again.

        Raises:
            IdempotencyConflict: the key was used for another body.
        """
        row = await self._database.fetch_row(
            "SELECT job_id, fingerprint FROM idempotency WHERE account_id = $1 AND route = $2 AND key = $3"
            " AND created_at >= clock_timestamp() - idempotency_window()",
            account_id,
            ROUTE,
            idempotency_key,
        )
        if row is None:
            return None
        if row["fingerprint"] != fingerprint:
            raise IdempotencyConflict
        return await self._replay(account_id, row["job_id"])

    async def _replay(self, account_id: UUID, job_id: UUID) -> Accepted:
        balance_after = await self._database.fetch_value(
            "SELECT balance_after FROM entry JOIN movement ON movement.id = movement_id"
            " WHERE business_id = 'hold:' || $1::text AND book = 'available'",
            str(job_id),
        )
        return Accepted(_as_submitted(await self.get(account_id, job_id)), balance_after, replayed=True)

    async def get(self, account_id: UUID, job_id: UUID, *, details: bool = False) -> Job:
        """The account's job; with `details` also its attempts and stages.

        Raises:
            NotFound: there is none, or it belongs to another account.
        """
        _, job = await self.changed(account_id, job_id)
        assert job is not None
        if not details:
            return job
        attempts = await self._database.fetch(
            "SELECT started_at, ended_at, outcome, replica FROM attempt WHERE job_id = $1 ORDER BY fence", job_id
        )
        stages = await self._database.fetch(
            "SELECT name, started_at, ended_at, gpu_seconds FROM stage WHERE job_id = $1 ORDER BY fence, started_at",
            job_id,
        )
        return replace(job, attempts=[Attempt(**item) for item in attempts], stages=[Stage(**item) for item in stages])

    async def changed(self, account_id: UUID, job_id: UUID, since: Version = NEVER) -> tuple[Version, Job | None]:
        """The account's job and its version, or no job when it is still the one of version `since`.

        Raises:
            NotFound: there is none, or it belongs to another account.
        """
        found = await self._read.get((account_id, job_id, since))
        if found is None:
            raise NotFound("There is no such job; GET /media/jobs?jobId= takes the jobId of a submit.")
        return found

    async def page(
        self, account_id: UUID, *, limit: int, before: UUID | None, state: State | None, task: str | None
    ) -> list[Job]:
        """Up to `limit` jobs of the account, newest first, older than the job `before`, in that state and of that task."""
        rows = await self._database.fetch(_PAGE, account_id, before or _NEWEST, task, state, limit)
        return [Job(**row) for row in rows]

    async def cancel(
        self, account_id: UUID, job_id: UUID, request_id: str | None = None, *, most_running: int | None = None
    ) -> Job:
        """End a waiting job, ask a running one to stop; a second or late cancel changes nothing. Returns the true state.

        An account that cancels more than `most_running` running jobs within a day (deadlines count too) may submit none
        for ten minutes.

        Raises:
            NotFound: there is none, or it belongs to another account.
        """
        await self._database.execute(
            "SELECT cancel($1, $2, $3, $4, $5)", account_id, job_id, request_id, most_running, CANCEL_PAUSE
        )
        return await self.get(account_id, job_id)


def _fresh(submission: Submission, job_id: UUID, billing: dict[str, Any], created_at: datetime) -> Job:
    """The job as `submit` has just written it."""
    return Job(
        id=job_id,
        account_id=submission.account_id,
        task=submission.task,
        effective_input=submission.effective_input,
        input_adjustments=submission.input_adjustments,
        warnings=submission.warnings,
        billing=billing,
        amount_micros=submission.quote.amount_micros,
        sequence=1,
        created_at=created_at,
        **_NEW,
    )


def _as_submitted(job: Job) -> Job:
    """The job as its submit answered it, whatever became of it since."""
    made = [change for change in job.input_adjustments if change["at"] == "submit"]
    return replace(job, input_adjustments=made, sequence=1, **_NEW)


def _too_many_bytes(error: Any, size: int, most: int) -> RateLimited:
    before, seconds = error.detail.split()
    return RateLimited(
        f"This account sent {before} bytes of files inside requests within 24 hours; with the {size} of this one it would"
        f" be more than {most}. Open an upload (POST /media/uploads) or send a URL instead, or wait.",
        headers={"Retry-After": seconds},
    )


def _translated(error: Any, submission: Submission) -> Exception:
    match error.sqlstate:
        case "KT402":
            available = int(error.detail)
            return InsufficientBalance(
                f"This job costs ${usd(submission.quote.amount_micros)} and ${usd(available)} is available; top up first.",
                details={"neededUsd": usd(submission.quote.amount_micros), "availableUsd": usd(available)},
            )
        case "KT429":
            return QueueFull(
                f"This account has {error.detail} jobs waiting, its limit; send more when some have ended."
            )
        case "KT430":
            return RateLimited(
                f"This account cancelled too many running jobs today; its next submit is taken in {error.detail} seconds.",
                headers={"Retry-After": error.detail},
            )
        case "KT503":
            return TaskUnavailable(
                f"This fleet does not run {submission.task} with this input (pools needed: {error.detail})."
            )
        case "KT504":
            return StorageUnavailable(
                "The media of this request waited too long to become a job; nothing was accepted. Send it again."
            )
        case _:
            return error if submission.idempotency_key is None else idempotency.translated(error)
