"""Deliveries as tasks of procrastinate: the outbox relayed, each delivery carried by one task, what got lost found again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import UUID

import psycopg
from procrastinate import App, BaseRetryStrategy, JobContext, PsycopgConnector, RetryDecision
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job as Task
from procrastinate.types import JSONDict

from core.database import UNAVAILABLE, Database
from core.log import logger
from jobs.wakeup import EVENT_CHANNEL
from webhooks.schedule import Schedule
from webhooks.sending import Sender, TryAgain

DELIVER = "webhooks.deliver"
RECOVER = "webhooks.recover"
BATCH = 100

AWAY = (*UNAVAILABLE, psycopg.OperationalError, ConnectorException)
"""What asyncpg, psycopg and procrastinate raise while the database is away."""

_CONNECTIONS = 4
_PAUSE_SECONDS = 0.05
_AGAIN_SECONDS = 1.0

_OUTBOX = """UPDATE delivery SET relayed_at = clock_timestamp(), next_attempt_at = clock_timestamp()
WHERE id IN (SELECT id FROM delivery WHERE relayed_at IS NULL ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING id"""

_CARRIED = """UPDATE delivery SET carrier = task.id FROM procrastinate_jobs task
WHERE task.id = ANY (%s) AND delivery.id = (task.args ->> 'delivery_id')::uuid"""

_LOST = """UPDATE delivery SET relayed_at = NULL, carrier = NULL
WHERE state = 'pending' AND relayed_at IS NOT NULL AND next_attempt_at < statement_timestamp() - make_interval(secs => $1)
  AND NOT EXISTS (SELECT FROM procrastinate_jobs WHERE id = carrier AND status = 'todo')
RETURNING id"""

_log = logger(__name__)


def new_app(url: str, *, missed_seconds: float) -> App:
    """procrastinate over the database at `url`, which must not be behind a pooler (it LISTENs).

    What should have been done by the clock at most `missed_seconds` ago is made up for at the start.
    """
    connector = PsycopgConnector(conninfo=url, min_size=1, max_size=_CONNECTIONS, timeout=10.0)
    return App(connector=connector, periodic_defaults={"max_delay": missed_seconds})


class _Again(BaseRetryStrategy):
    """A failed try comes back when its delivery says; one that broke for another reason comes back after the lease."""

    def __init__(self, lease: float) -> None:
        self._lease = int(lease) + 1

    def get_retry_decision(self, *, exception: BaseException, job: Task) -> RetryDecision:
        if isinstance(exception, TryAgain):
            return RetryDecision(retry_at=exception.at, priority=-exception.tries)
        if not isinstance(exception, asyncio.CancelledError):
            _log.error("a delivery's task broke; it is tried again", task=job.id, exc_info=exception)
            return RetryDecision(retry_in={"seconds": self._lease})
        return RetryDecision(retry_in={"seconds": 0})


class Deliveries:
    """The outbox and the tasks that carry it. Any number of processes may run one."""

    def __init__(self, app: App, database: Database, sender: Sender, schedule: Schedule) -> None:
        self._app = app
        self._database = database
        self._schedule = schedule
        self._woken = asyncio.Event()

        async def deliver(context: JobContext, *, delivery_id: str) -> None:
            assert context.job.id is not None
            await sender.attempt(UUID(delivery_id), context.job.id)

        async def recover(timestamp: int) -> None:
            await self.recover()

        self._deliver = app.task(name=DELIVER, queue=DELIVER, pass_context=True, retry=_Again(schedule.lease))(deliver)
        app.periodic(cron=schedule.recover_cron)(
            app.task(name=RECOVER, queue=RECOVER, queueing_lock=RECOVER, priority=10)(recover)
        )

    async def run(self) -> None:
        """Relay the outbox whenever a job's event is told of, and every `poll` seconds, until cancelled."""
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                self._woken.clear()
                try:
                    while await self.relay() == BATCH:
                        pass
                except AWAY as error:
                    _log.warning("the outbox cannot be relayed; trying again", error=repr(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._schedule.poll):
                        await self._woken.wait()
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            listening.cancel()
            await asyncio.wait({listening})

    async def _listen(self) -> None:
        while True:
            with suppress(*UNAVAILABLE):
                listener = await self._database.listen(EVENT_CHANNEL)
                try:
                    async for _ in listener:
                        self._woken.set()
                finally:
                    await listener.close()
            await asyncio.sleep(_AGAIN_SECONDS)

    async def relay(self) -> int:
        """Give up to `BATCH` deliveries of the outbox a task each, in one transaction; returns how many.

        Raises:
            ConnectorException, psycopg.OperationalError: the database is away.
        """
        connector = self._app.connector
        assert isinstance(connector, PsycopgConnector)
        async with connector.pool.connection() as connection:
            rows = await (await connection.execute(_OUTBOX, [BATCH])).fetchall()
            if rows:
                given: list[JSONDict] = [{"delivery_id": str(row[0])} for row in rows]
                tasks = await self._deliver.configure(connection=connection).batch_defer_async(*given)
                await connection.execute(_CARRIED, [tasks])
        return len(rows)

    async def recover(self) -> None:
        """Take up what dead or lost workers left behind: their tasks run again, deliveries without a task are relayed."""
        manager = self._app.job_manager
        for task in await manager.get_stalled_jobs(seconds_since_heartbeat=self._schedule.silence):
            _log.warning("a worker died; its task is taken up", task=task.id, name=task.task_name)
            # Two processes may find the same one.
            with suppress(ConnectorException):
                await manager.retry_job(task)
        lost = await self._database.fetch(_LOST, self._schedule.overdue)
        if lost:
            _log.warning("deliveries had lost their tasks; they are relayed again", count=len(lost))
            self._woken.set()
