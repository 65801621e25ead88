"""A dispatcher in the test's own process, over a real database, and engines that answer as a test wants them to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from cluster import dispatcher, fleet
from cluster.dispatcher import Dispatcher
from core.database import Database
from deployments.messages import Call, Faulted, Halted, Message, Progress
from jobs.models import Job
from tests.cluster.doubles import RELEASED, STARTED, Answer, HandleDouble, finished
from tests.leasing import job_of, until_true

POOL = "qwen-image"
INPUT = {
    "prompt": "a fox",
    "negativePrompt": "",
    "width": 64,
    "height": 64,
    "outputFormat": "webp",
    "highDetail": False,
    "referenceImages": [],
    "seed": 7,
}


class Made:
    """A picture as an engine gives it."""

    pixels = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)


async def painting(call: Call) -> AsyncIterator[Message]:
    """An engine that makes a picture."""
    yield STARTED
    yield Progress(1, 1)
    yield finished(Made())


def in_turn(*answers: Answer) -> Answer:
    """The first call gets the first answer, and so on; the last one stays."""
    left = list(answers)

    def answer(call: Call) -> AsyncIterator[Message]:
        return (left.pop(0) if len(left) > 1 else left[0])(call)

    return answer


async def dying(call: Call) -> AsyncIterator[Message]:
    yield STARTED
    yield Progress(1, 3)
    raise ActorDiedError


async def faulty(call: Call) -> AsyncIterator[Message]:
    yield STARTED
    yield Faulted("non_finite_output", "NaN in the latents", 0.5, recycle=True)


async def failing(call: Call) -> AsyncIterator[Message]:
    yield STARTED
    yield Faulted("device_lost", "it fell off the bus", 0.5, recycle=True)


async def halting(call: Call) -> AsyncIterator[Message]:
    yield STARTED
    yield Halted(1, 0.2, RELEASED)


class Dispatching:
    """A way to start dispatchers, and their end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[Dispatcher] = []
        self._patch = monkeypatch

    def start(self, answer: Answer = painting) -> HandleDouble:
        handle = HandleDouble(answer)
        self._patch.setattr("cluster.conversation.serve.get_app_handle", handle)
        self.started.append(Dispatcher())
        return handle

    async def end(self) -> None:
        for each in self.started:
            each._main.cancel()
        await asyncio.gather(*(each._main for each in self.started), return_exceptions=True)
        for each in self.started:
            await each._database.close()


@pytest.fixture
async def dispatching(
    ray_cluster: None,
    cluster_settings: dict[str, str],
    database: Database,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Dispatching]:
    for name, value in {**cluster_settings, "KILLATAMATA_DATABASE_URL": database_url}.items():
        monkeypatch.setenv(name, value)

    async def slots() -> dict[str, int]:
        return {POOL: 2}

    monkeypatch.setattr(fleet, "slots", slots)
    for name in ("_RECYCLE_SECONDS", "_UNAVAILABLE_SECONDS", "_RETRY_SECONDS"):
        monkeypatch.setattr(dispatcher, name, 0.05)
    made = Dispatching(monkeypatch)
    yield made
    await made.end()


async def ended(database: Database, job: Job) -> Job:
    async def look() -> Job | None:
        found = await job_of(database, job)
        return found if found.finished_at else None

    found: Job = await until_true(look, f"the end of job {job.id}")
    return found
