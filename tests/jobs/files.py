"""Jobs with files of their own, for tests of what becomes of these."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from uuid import UUID

from core.database import Database
from jobs.inputs import InlineFile
from jobs.leases import Outcome
from jobs.models import Job
from storage import LocalStore, Store, StoreUnavailable
from tests.jobs.world import World

BASE_URL = "https://api.example.test"


class FailingStore(LocalStore):
    """A store whose deletes fail while `away` is set."""

    away = False

    def delete(self, key: str) -> None:
        if self.away:
            raise StoreUnavailable("Away", "wait")
        super().delete(key)

    def delete_prefix(self, prefix: str) -> None:
        if self.away:
            raise StoreUnavailable("Away", "wait")
        super().delete_prefix(prefix)


def local_store(folder: Path) -> FailingStore:
    return FailingStore(folder / "store", BASE_URL, b"k" * 32)


def file_of(content: bytes) -> InlineFile:
    return InlineFile(content, "image/png", hashlib.sha256(content).digest())


async def made(world: World, account: UUID, store: Store, *strays: str) -> Job:
    """A job that succeeded with one output, and whose earlier attempts left `strays` (`3/image.webp`)."""
    job = await world.submit(account)
    lease = await world.claim_one()
    key = f"jobs/{job.id}/{lease.fence}/image.webp"
    store.put(key, b"picture", "image/webp")
    for stray in strays:
        store.put(f"jobs/{job.id}/{stray}", b"stray", "image/webp")
    output: dict[str, Any] = {"key": key, "role": "primary", "mimeType": "image/webp", "bytes": 7, "sha256": "0" * 64}
    assert await world.leases.settle(lease, "succeeded", Outcome(outputs=(output,))) == "succeeded"
    if strays:
        await world.database.execute("UPDATE job SET strays = true WHERE id = $1", job.id)
    return await world.reread(job)


async def aged(database: Database, interval: str, *, table: str = "job", column: str = "finished_at") -> None:
    """Everything in the table is older by that."""
    await database.execute(f"UPDATE {table} SET {column} = {column} - interval '{interval}'")
