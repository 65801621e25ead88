"""Jobs with webhooks that have ended, and a schedule for the impatient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from api.services import Services
from core.addresses import parse_allowed
from core.database import Database
from core.settings import Settings
from jobs.leases import Outcome
from jobs.models import Job
from killatamata.background import notice
from tests.jobs.world import World
from webhooks.schedule import Schedule
from webhooks.sending import Render, Sender
from webhooks.store import Delivery

CARRIER = 7
PAINTED = Outcome(
    outputs=(
        {"key": "jobs/1/1/image.webp", "role": "primary", "mimeType": "image/webp", "bytes": 9, "sha256": "0" * 64},
    ),
    engine="e",
    weights_digest="d",
    stand_in=True,
    replica="r",
)
FAST = Schedule(
    delays=(0.01, 0.01, 0.01),
    jitter=0,
    timeout=3.0,
    lease=3.5,
    overdue=2.0,
    poll=0.05,
    share_pause=0.05,
    beat=0.2,
    silence=1.0,
    drain=1.5,
    recover_cron="* * * * * *",
)
"""Four tries, at once."""


def settings(url: str, folder: Any) -> Settings:
    """Settings of a service over the database at `url`, whose receivers may live on the loopback."""
    return Settings(
        data_dir=folder,
        DATABASE_URL=url,
        secret_key="k" * 32,
        public_url="https://api.example.test",
        egress_allow="127.0.0.0/8",
    )


class Scene:
    """What these tests see of the service."""

    def __init__(self, services: Services, world: World) -> None:
        self.services = services
        self.world = world

    @property
    def database(self) -> Database:
        return self.services.database

    async def account(self) -> tuple[UUID, str]:
        """A new account with credit, and its secret."""
        account = await self.world.account()
        return account, (await self.services.webhooks.secret(account)).value

    async def succeeded(self, account: UUID, url: str) -> Job:
        """A job that has succeeded, and whose webhook waits in the outbox."""
        job = await self.world.submit(account, webhook_url=url)
        while (lease := await self.world.claim_one()).job_id != job.id:
            pass
        await self.world.leases.settle(lease, "succeeded", PAINTED)
        return await self.world.reread(job)

    async def delivery(self, job: Job) -> Delivery:
        """The one delivery of the job."""
        (found,) = await self.services.webhooks.deliveries(job.account_id, job.id)
        return found

    async def carried(self, job: Job) -> UUID:
        """The job's delivery, due now and carried by task `CARRIER`."""
        found = await self.delivery(job)
        await self.database.execute(
            "UPDATE delivery SET relayed_at = clock_timestamp(), carrier = $2, next_attempt_at = clock_timestamp()"
            " WHERE id = $1",
            found.id,
            CARRIER,
        )
        return found.id

    async def due(self, delivery: UUID) -> None:
        """Whatever the delivery waits for is over."""
        await self.database.execute("UPDATE delivery SET next_attempt_at = clock_timestamp() WHERE id = $1", delivery)

    def sender(self, *, render: Render | None = None, allow: str = "127.0.0.0/8", **schedule: Any) -> Sender:
        """A sender that may reach the loopback."""
        return Sender(
            self.database,
            self.services.webhooks,
            render or notice(self.services),
            schedule=replace(FAST, **schedule),
            allow=parse_allowed(allow),
        )
