"""What the background process does again and again. A part that needs a sweep adds it to `SWEEPS`, and nothing else.

A sweep may be run twice at once and may be cut off anywhere; it takes rows in batches and ends when nothing is left.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from accounts import idempotency
from api.services import Services
from billing import checks
from core.clock import now
from core.log import logger
from jobs import artifacts, history, uploads
from jobs import sweeps as files
from storage import StoreUnavailable
from storage.s3 import S3Store

DELIVERY_DAYS = 30
EVENT_DAYS = 7

_log = logger(__name__)


@dataclass(frozen=True)
class Sweep:
    """A named sweep. `cron` has five fields in UTC, and may have a sixth for seconds, which comes last."""

    name: str
    cron: str
    run: Callable[[Services], Awaitable[object]]


async def _touched_wallets(services: Services) -> None:
    _report(await checks.check_touched(services.database))


async def _all_wallets(services: Services) -> None:
    _report(await checks.check_all(services.database))


async def _chains(services: Services) -> None:
    while (check := await checks.check_chains(services.database)) is None:
        pass
    _report(check)


def _report(check: checks.Check) -> None:
    if check.wrong:
        accounts = [str(account) for account in check.wrong]
        _log.error(
            "wallets disagree with the ledger; run killatamata ledger check", scope=check.scope, accounts=accounts
        )


async def _orphaned_holds(services: Services) -> None:
    checked, accounts = await history.orphaned_holds(services.database)
    await checks.keep(services.database, "holds", checked, accounts)
    if accounts:
        _log.error(
            "holds outlived their jobs; money is set aside for nothing", accounts=[str(each) for each in accounts]
        )


async def _unbacked_jobs(services: Services) -> None:
    checked, accounts = await history.unbacked_jobs(services.database)
    await checks.keep(services.database, "jobs", checked, accounts)
    if accounts:
        _log.error("jobs lack their hold or their place in the queue", accounts=[str(each) for each in accounts])


async def _old_deliveries(services: Services) -> None:
    await services.webhooks.remove_old(DELIVERY_DAYS)


async def _old_idempotency_records(services: Services) -> None:
    await idempotency.remove_expired(services.database)


async def _old_events(services: Services) -> None:
    await history.remove_events(services.database, now() - timedelta(days=EVENT_DAYS))


async def _old_jobs(services: Services) -> None:
    await history.remove_jobs(services.database, now() - timedelta(days=services.settings.job_days))


async def _expired_outputs(services: Services) -> None:
    await files.expire_outputs(services.database, timedelta(days=services.settings.output_days))


async def _strays(services: Services) -> None:
    await files.remove_strays(services.database, services.store)


async def _old_inputs(services: Services) -> None:
    await files.remove_inputs(services.database, services.store)


async def _old_uploads(services: Services) -> None:
    await files.remove_uploads(services.database, services.store)


async def set_lifecycle(services: Services) -> None:
    """Have the bucket itself delete what the sweeps forget, a day or more after they should have; no file in the bucket
    depends on it, so a bucket that refuses is only logged."""
    store, settings = services.store, services.settings
    if not isinstance(store, S3Store):
        return
    # The server counts whole days from the put, a sweep from the job's end.
    lives = {
        artifacts.FOLDER: math.ceil(settings.output_days) + 2,
        uploads.FOLDER: math.ceil(settings.upload_hours / 24) + 1,
    }
    try:
        for folder, days in lives.items():
            if not await asyncio.to_thread(store.expire_after, days, prefix=f"{folder}/"):
                _log.info("the bucket's server has no lifecycles; the sweeps alone delete files")
                return
    except StoreUnavailable as error:
        _log.warning("the bucket's lifecycle was not set; the sweeps alone delete files", error=str(error))


SWEEPS: tuple[Sweep, ...] = (
    Sweep("touched-wallets", "* * * * * */30", _touched_wallets),
    Sweep("all-wallets", "17 3 * * *", _all_wallets),
    Sweep("chains", "37 3 * * *", _chains),
    Sweep("orphaned-holds", "* * * * *", _orphaned_holds),
    Sweep("unbacked-jobs", "* * * * * 30", _unbacked_jobs),
    Sweep("old-deliveries", "7 * * * *", _old_deliveries),
    Sweep("old-idempotency-records", "12 * * * *", _old_idempotency_records),
    Sweep("old-events", "22 * * * *", _old_events),
    Sweep("old-jobs", "47 4 * * *", _old_jobs),
    Sweep("expired-outputs", "*/5 * * * *", _expired_outputs),
    Sweep("strays", "*/5 * * * *", _strays),
    Sweep("old-inputs", "2-59/5 * * * *", _old_inputs),
    Sweep("old-uploads", "3-59/5 * * * *", _old_uploads),
    Sweep("lifecycle", "52 4 * * *", set_lifecycle),
)
