"""The callers' side of jobs: submit, read, cancel."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from accounts import idempotency
from core.database import Database
from core.errors import IdempotencyConflict, InsufficientBalance, NotFound, QueueFull, TaskUnavailable
from core.ids import uuid7
from core.money import usd
from jobs.models import CLASSES, Attempt, Job, Stage, Submission

ROUTE = "POST /media/jobs"

_SUBMIT = "SELECT job_id, replayed FROM submit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"

_READ = """
SELECT job.id, job.account_id, job.task, job.effective_input, job.input_adjustments, job.warnings, job.billing,
  CASE WHEN job.state = 'queued' AND job.segment > 0 THEN 'running' ELSE job.state END AS state,
  job.amount AS amount_micros, hold.state AS hold_state,
  CASE hold.state WHEN 'captured' THEN hold.ended_at END AS captured_at,
  CASE hold.state WHEN 'released' THEN hold.ended_at END AS released_at,
  job.progress, job.stage, job.sequence, job.created_at, job.started_at, job.finished_at, job.cancel_requested_at,
  job.stopped_at_step, job.gpu_released_at, job.engine, job.weights_digest, job.stand_in, job.outputs,
  job.outputs_deleted_at, job.failure, job.upstream, job.balance_after,
  CASE WHEN queue.state = 'ready' AND job.segment = 0 THEN 1 + (
    SELECT count(*) FROM queue AS ahead WHERE ahead.pool = queue.pool AND ahead.state = 'ready'
      AND (NOT ahead.begun, ahead.tag, ahead.job_id) < (NOT queue.begun, queue.tag, queue.job_id)) END::int AS queue_position
FROM job JOIN hold ON hold.id = job.id LEFT JOIN queue ON queue.job_id = job.id
WHERE job.id = $1 AND job.account_id = $2
"""


class Jobs:
    """The jobs of all accounts, in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submit(self, submission: Submission) -> tuple[Job, bool]:
        """Accept a job: record, hold, queue row and first event, or nothing at all. True: a replay of an earlier submit.

        Raises:
            InsufficientBalance: the available balance is below the price.
            IdempotencyConflict: the key was used for another body.
            IdempotencyInProgress: a twin is still at work.
            QueueFull: the account has as many jobs waiting as it may.
            TaskUnavailable: the fleet has no pool for the task.
        """
        quote = submission.quote
        try:
            row = await self._database.fetch_row(
                _SUBMIT,
                uuid7(),
                submission.account_id,
                submission.task,
                submission.effective_input,
                submission.input_adjustments,
                submission.warnings,
                quote.billing_json(),
                quote.amount_micros,
                list(submission.pools),
                submission.cost_seconds,
                CLASSES[submission.priority],
                submission.request_id,
                ROUTE,
                submission.idempotency_key,
                submission.fingerprint,
                timedelta(seconds=submission.start_timeout_seconds),
            )
        except asyncpg.PostgresError as error:
            raise _translated(error, submission) from None
        assert row is not None
        return await self.get(submission.account_id, row["job_id"]), row["replayed"]

    async def replayed(self, account_id: UUID, idempotency_key: str, fingerprint: bytes) -> Job | None:
        """The job of an earlier submit with this key, so that a retry needs neither a live quote nor the money again.

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
        return await self.get(account_id, row["job_id"])

    async def get(self, account_id: UUID, job_id: UUID) -> Job:
        """The account's job with its attempts and stages.

        Raises:
            NotFound: there is none, or it belongs to another account.
        """
        async with self._database.pool.acquire(timeout=5) as connection:
            row = await connection.fetchrow(_READ, job_id, account_id)
            if row is None:
                raise NotFound("There is no such job; GET /media/jobs?jobId= takes the jobId of a submit.")
            attempts = await connection.fetch(
                "SELECT started_at, ended_at, outcome, replica FROM attempt WHERE job_id = $1 ORDER BY fence", job_id
            )
            stages = await connection.fetch(
                "SELECT name, started_at, ended_at, gpu_seconds FROM stage WHERE job_id = $1 ORDER BY fence, started_at",
                job_id,
            )
        fields: dict[str, Any] = dict(row)
        return Job(**fields, attempts=[Attempt(**item) for item in attempts], stages=[Stage(**item) for item in stages])

    async def cancel(self, account_id: UUID, job_id: UUID) -> Job:
        """End a waiting job, ask a running one to stop; a second or late cancel changes nothing. Returns the true state.

        Raises:
            NotFound: there is none, or it belongs to another account.
        """
        await self._database.execute("SELECT cancel($1, $2)", account_id, job_id)
        return await self.get(account_id, job_id)


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
        case "KT503":
            return TaskUnavailable(
                f"This fleet does not run {submission.task} with this input (pools needed: {error.detail})."
            )
        case _:
            return idempotency.translated(error)
