from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from api.room import Room
from core.errors import Overloaded
from tests.serving import FOX, serving

JOBS = "/api/v1/media/jobs"


def test_what_a_guest_took_is_given_back_however_it_leaves() -> None:
    room = Room(10)
    with room.guest() as one, room.guest() as other:
        one.take(4)
        other.take(6)
        with pytest.raises(Overloaded):
            one.take(1)
        one.leave()
        other.take(4)
        one.leave()
        assert room.taken == 10
    with suppress(ZeroDivisionError), room.guest() as guest:
        guest.take(10)
        raise ZeroDivisionError
    assert room.taken == 0


async def test_a_submit_that_waits_for_its_job_keeps_no_room(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as served:
        waiting = asyncio.create_task(served.client.post(JOBS, json=FOX, headers={"Prefer": "wait=60"}))
        while not await served.services.database.fetch_value("SELECT count(*) FROM job"):
            await asyncio.sleep(0.01)
        lease = await served.claim()
        async with asyncio.timeout(10):
            while served.services.room.taken:
                await asyncio.sleep(0.01)
        assert not waiting.done()
        await served.succeed(lease)
        assert (await waiting).json()["status"] == "succeeded"


async def test_a_body_that_finds_no_room_is_503_and_the_others_go_on(database_url: str, tmp_path: Path) -> None:
    held, slow = asyncio.Event(), asyncio.Event()

    async def dripping() -> AsyncIterator[bytes]:
        yield b" " * 6_000
        held.set()
        await slow.wait()
        yield b"{}"

    headers = {"Content-Type": "application/json"}
    async with serving(database_url, tmp_path, max_bodies_bytes=10_000) as served:
        first = asyncio.create_task(served.client.post(JOBS, content=dripping(), headers=headers))
        await asyncio.wait_for(held.wait(), 10)
        refused = await served.client.post(JOBS, content=b" " * 6_000 + b"{}", headers=headers)
        assert (refused.status_code, refused.json()["error"], refused.headers["retry-after"]) == (
            503,
            "overloaded",
            "5",
        )
        assert (await served.client.post(JOBS, json=FOX)).status_code == 202
        slow.set()
        assert (await first).status_code == 422
        again = await served.client.post(JOBS, content=b" " * 9_000 + b"{}", headers=headers)
        assert again.status_code == 422, "the room is free again"
