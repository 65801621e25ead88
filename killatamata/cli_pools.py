"""The operator's commands on pools, and the audit of what operators did, straight on the database."""

from __future__ import annotations

import json
import math
from typing import Literal

from cyclopts import App

from core.clock import rfc3339
from core.settings import Settings
from killatamata import show
from killatamata.cli_jobs import AsJson
from killatamata.command import CommandFailed, database, interruptible, operator

pool = App(name="pool", help="Pools: list, pause, resume, drain.")

GRACE_MOST_SECONDS = 86_400.0


@pool.command(name="list")
def pool_list(*, as_json: AsJson = False) -> int:
    """List the pools, with their replicas, their jobs by state, and the seconds of work that wait per replica.

    Parameters
    ----------
    as_json:
        Print JSON: {"pools": […]}.
    """

    async def read(settings: Settings) -> int:
        from jobs import pools

        async with database(settings) as books:
            found = await pools.every(books)
        rows = [
            {
                "name": each.name,
                "state": "retired"
                if each.retired
                else "draining"
                if each.drain_by
                else "paused"
                if each.paused
                else "open",
                "slots": each.slots,
                "ready": each.ready,
                "leased": each.leased,
                "parked": each.parked,
                "quarantined": each.quarantined,
                "queueSeconds": round(each.queue_seconds, 1),
                "maxQueueSeconds": each.max_queue_seconds,
                "drainBy": None if each.drain_by is None else rfc3339(each.drain_by),
            }
            for each in found
        ]
        if as_json:
            print(json.dumps({"pools": rows}, indent=2))
        else:
            show.table("Pools", [{name: "" if value is None else value for name, value in row.items()} for row in rows])
        return 0

    return interruptible(read)


@pool.command(name="pause")
def pool_pause(name: str, *, reason: str | None = None) -> int:
    """Claim nothing more from a pool; what runs goes on, and submits are accepted and wait.

    Parameters
    ----------
    name:
        A pool of killatamata pool list.
    reason:
        For the audit.
    """
    return _command(name, "pause", reason)


@pool.command(name="resume")
def pool_resume(name: str, *, reason: str | None = None) -> int:
    """Let a paused or drained pool work again.

    Parameters
    ----------
    name:
        A pool of killatamata pool list.
    reason:
        For the audit.
    """
    return _command(name, "resume", reason)


@pool.command(name="drain")
def pool_drain(name: str, *, grace: float = 60, reason: str | None = None) -> int:
    """Pause a pool, and wait until nothing of it runs; what still does after the grace is handed back, uncounted.

    It stays paused until killatamata pool resume. Interrupted, the drain goes on without this command.

    Parameters
    ----------
    name:
        A pool of killatamata pool list.
    grace:
        Seconds for what runs to end by itself.
    reason:
        For the audit.
    """
    if not (math.isfinite(grace) and 0 <= grace <= GRACE_MOST_SECONDS):
        raise CommandFailed(f"--grace is 0 to {GRACE_MOST_SECONDS:g} seconds, not {grace}")
    return _command(name, "drain", reason, grace)


def audit(*, target: str | None = None, limit: int = 100, as_json: AsJson = False) -> int:
    """List what operators did by hand: who, when, what, to which job or pool, why, and how it stood before and after.

    Parameters
    ----------
    target:
        Only of this job (job_…), account (acct_…) or pool.
    limit:
        How many, newest first.
    as_json:
        Print JSON: {"audit": […]}.
    """
    if not 1 <= limit <= 10_000:
        raise CommandFailed(f"--limit is 1 to 10000, not {limit}")

    async def read(settings: Settings) -> int:
        from jobs import interventions

        async with database(settings) as books:
            found = await interventions.audit(books, target=target, limit=limit)
        rows = [
            {
                "id": each.id,
                "at": rfc3339(each.at),
                "actor": each.actor,
                "action": each.action,
                "target": each.target,
                "reason": each.reason,
                "before": each.before,
                "after": each.after,
            }
            for each in found
        ]
        if as_json:
            print(json.dumps({"audit": rows}, indent=2))
        else:
            show.table("Audit", [{**row, "reason": row["reason"] or ""} for row in rows])
        return 0

    return interruptible(read)


def _command(name: str, action: Literal["pause", "resume", "drain"], reason: str | None, grace: float = 0) -> int:
    async def work(settings: Settings) -> int:
        from jobs import interventions

        async with database(settings) as books:
            by = operator(reason)
            standing = await interventions.command_pool(books, name, action, by, grace_seconds=grace)
            left = await interventions.drained(books, name, grace) if action == "drain" else standing["leased"]
        if action == "drain" and left:
            raise CommandFailed(f"{left} jobs of {name} still run; somebody resumed the pool meanwhile")
        print(f"{name} is {'open' if action == 'resume' else 'paused'}; {left or 'no'} jobs run")
        return 0

    return interruptible(work)
