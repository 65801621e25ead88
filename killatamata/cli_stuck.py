"""The operator's commands on jobs: stuck, requeue, quarantine and release, straight on the database; any account's jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from core.clock import rfc3339
from core.ids import decode, encode
from core.settings import Settings
from killatamata import show
from killatamata.cli_jobs import AsJson, Flag
from killatamata.command import CommandFailed, database, interruptible, operator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.stuck import Stuck

GROUP = "The operator's, on the database"


def stuck(
    *,
    quarantined: Flag = False,
    limit: Annotated[int, Parameter(show_default=True)] = 100,
    as_json: AsJson = False,
) -> int:
    """List jobs of all accounts that look stuck, and why; for the operator, straight on the database.

    Parameters
    ----------
    quarantined:
        Only those in quarantine, with each attempt: held back, or failed (and refunded) after their last attempt.
    limit:
        Most jobs of each kind.
    as_json:
        Print JSON: {"jobs": […]}.
    """
    if not 1 <= limit <= 10_000:
        raise CommandFailed(f"--limit is 1 to 10000, not {limit}")

    async def look(settings: Settings) -> int:
        from jobs import stuck as looks

        async with database(settings) as books:
            ask = looks.quarantined if quarantined else looks.stuck
            found = await ask(books, limit=limit)
        if as_json:
            print(json.dumps({"jobs": [_json(each) for each in found]}, indent=2))
        else:
            _print(found, evidence=quarantined)
        return 0

    return interruptible(look)


def requeue(job_id: str, *, reason: str | None = None, as_json: AsJson = False) -> int:
    """Put an unfinished job back in line with fresh attempts; a running one loses its lease, which counts as no attempt.

    Parameters
    ----------
    job_id:
        job_…
    reason:
        For the audit.
    as_json:
        Print JSON: how the job stands then.
    """
    return _intervene("requeue", job_id, reason, as_json)


def quarantine(job_id: str, *, reason: str | None = None, as_json: AsJson = False) -> int:
    """Hold an unfinished job back: it does not run, its price stays held, and its caller sees it wait.

    Parameters
    ----------
    job_id:
        job_…
    reason:
        For the audit, and for who reads killatamata jobs stuck.
    as_json:
        Print JSON: how the job stands then.
    """
    return _intervene("quarantine", job_id, reason, as_json)


def release(job_id: str, *, reason: str | None = None, as_json: AsJson = False) -> int:
    """Let a job go from quarantine, back to its place in line; one that failed there is only no longer listed.

    Parameters
    ----------
    job_id:
        job_…
    reason:
        For the audit.
    as_json:
        Print JSON: how the job stands then.
    """
    return _intervene("release", job_id, reason, as_json)


COMMANDS = (stuck, requeue, quarantine, release)


def _intervene(
    action: Literal["requeue", "quarantine", "release"], job_id: str, reason: str | None, as_json: bool
) -> int:
    wanted = decode("job", job_id)
    if wanted is None:
        raise CommandFailed(f"{job_id!r} is no job id; it looks like job_ and 26 characters")

    async def work(settings: Settings) -> int:
        from jobs import interventions

        async with database(settings) as books:
            standing = await interventions.intervene(books, wanted, action, operator(reason))
        if as_json:
            print(json.dumps(standing, indent=2))
        else:
            place = f", {standing['queue']} in pool {standing['pool']}" if "queue" in standing else ""
            print(f"{job_id} is {standing['state']}{place}; its price is {standing['hold']}")
        return 0

    return interruptible(work)


def _json(job: Stuck) -> dict[str, Any]:
    return {
        "jobId": encode("job", job.job_id),
        "accountId": encode("acct", job.account_id),
        "task": job.task,
        "state": job.state,
        "pool": job.pool,
        "why": job.why,
        "seconds": round(job.seconds, 1),
        "attempts": job.attempts,
        "starts": job.starts,
        "about": job.about,
        "evidence": [
            {
                "fence": each.fence,
                "session": each.session,
                "startedAt": rfc3339(each.started_at),
                "endedAt": None if each.ended_at is None else rfc3339(each.ended_at),
                "outcome": each.outcome,
                "replica": each.replica,
                "stage": each.stage,
            }
            for each in job.evidence
        ],
    }


def _print(found: Sequence[Stuck], *, evidence: bool) -> None:
    rows = [_json(each) for each in found]
    shown = ("jobId", "task", "state", "pool", "why", "seconds", "attempts", "starts", "about")
    show.table("Jobs that look stuck", [{name: row[name] for name in shown} for row in rows])
    for row in rows if evidence else ():
        if row["evidence"]:
            show.table(row["jobId"], row["evidence"])
    if not rows:
        show.console.print("None.")
