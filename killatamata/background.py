"""`python -m killatamata.background`: webhooks out of the outbox, and every sweep. Any number of these may run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from procrastinate import App

from api.services import Services
from api.views import job_answer
from core.addresses import parse_allowed
from core.clock import now
from core.database import patiently
from core.log import configure, logger
from core.settings import Settings
from jobs.models import Job
from killatamata.sweeps import DELIVERY_DAYS, SWEEPS, Sweep, set_lifecycle
from webhooks.queue import AWAY, DELIVER, RECOVER, Deliveries, new_app
from webhooks.schedule import Schedule
from webhooks.sending import Sender

SWEEPS_QUEUE = "sweeps"

WORKERS = {DELIVER: 64, SWEEPS_QUEUE: 8, RECOVER: 1}
"""Tasks of each queue that one process has under way, with a worker of its own: nearly all deliveries wait for a receiver,
and neither sweeps nor the recovery wait for them."""

_MISSED_SECONDS = 86_400
_AGAIN_SECONDS = 1.0

_log = logger(__name__)


def notice(services: Services) -> Callable[[Job], str]:
    """What a notice says of a job: the very answer of GET, with URLs signed now."""

    def render(job: Job) -> str:
        return job_answer(services, job, details=False, instant=now()).model_dump_json(exclude_unset=True)

    return render


class Background:
    """The background process over `services`, whose database it opens and closes."""

    def __init__(
        self, services: Services, *, schedule: Schedule | None = None, sweeps: Sequence[Sweep] = SWEEPS
    ) -> None:
        self._services = services
        self._schedule = schedule or Schedule()
        self._app = new_app(services.database.direct_url, missed_seconds=_MISSED_SECONDS)
        sender = Sender(
            services.database,
            services.webhooks,
            notice(services),
            schedule=self._schedule,
            allow=parse_allowed(services.settings.egress_allow),
        )
        self._deliveries = Deliveries(self._app, services.database, sender, self._schedule)
        for sweep in (*sweeps, Sweep("old-tasks", "32 * * * *", self._remove_old_tasks)):
            _add(self._app, sweep, services)

    async def run(self) -> None:
        """Work until cancelled; then tries under way get `drain` seconds. An absent database is waited for.

        Raises:
            Exception: a fault of ours; the process had better be started again.
        """
        await patiently(self._services.database.open)
        # At every start, for the settings may be others than last night's. A slow bucket holds nothing up.
        lifecycle = asyncio.create_task(set_lifecycle(self._services))
        try:
            async with self._app.open_async():
                await self._parts()
        finally:
            lifecycle.cancel()
            await asyncio.wait({lifecycle})
            await self._services.database.close()

    async def _parts(self) -> None:
        parts = [asyncio.create_task(self._deliveries.run())]
        parts += [asyncio.create_task(self._work(queue, most)) for queue, most in WORKERS.items()]
        try:
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            ended.pop().result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)

    async def _work(self, queue: str, most: int) -> None:
        """Run a worker of procrastinate for one queue, again when it lost the database."""
        while True:
            try:
                await self._app.run_worker_async(
                    name=f"background {queue}",
                    queues=[queue],
                    concurrency=most,
                    install_signal_handlers=False,
                    delete_jobs="successful",
                    fetch_job_polling_interval=self._schedule.poll,
                    update_heartbeat_interval=self._schedule.beat,
                    stalled_worker_timeout=self._schedule.silence,
                    shutdown_graceful_timeout=self._schedule.drain,
                )
            except AWAY as error:
                _log.warning("the database is away; the worker begins again when it is back", error=repr(error))
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _remove_old_tasks(self, _: Services) -> None:
        await self._app.job_manager.delete_old_jobs(
            DELIVERY_DAYS * 24, include_failed=True, include_cancelled=True, include_aborted=True
        )


def _add(app: App, sweep: Sweep, services: Services) -> None:
    name = f"sweep.{sweep.name}"

    async def run(timestamp: int) -> None:
        await sweep.run(services)

    task: Callable[[int], Awaitable[None]] = run
    app.periodic(cron=sweep.cron)(app.task(name=name, queue=SWEEPS_QUEUE, queueing_lock=name, priority=10)(task))


async def until_signalled(background: Background) -> None:
    """Run it until SIGINT or SIGTERM."""
    running = asyncio.create_task(background.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with suppress(asyncio.CancelledError):
        await running


def main() -> None:
    """The command: works until SIGINT or SIGTERM."""
    settings = Settings()
    configure(settings.log_level, json=settings.log_json)
    asyncio.run(until_signalled(Background(Services.of(settings))))


if __name__ == "__main__":
    main()
