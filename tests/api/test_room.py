from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from api.room import FREE_BYTES, Room
from core.errors import Overloaded
from tests.serving import FOX, serving

JOBS = "/api/v1/media/jobs"


def test_what_a_guest_took_is_given_back_however_it_leaves() -> None:
    room, account = Room(10, 10), uuid4()
    with room.guest(account) as one, room.guest(account) as other:
        one.take(FREE_BYTES + 4)
        other.take(FREE_BYTES)
        other.take(6)
        with pytest.raises(Overloaded):
            one.take(1)
        one.leave()
        other.take(4)
        one.leave()
        assert room.taken == 10
    with suppress(ZeroDivisionError), room.guest(account) as guest:
        guest.take(FREE_BYTES + 10)
        raise ZeroDivisionError
    assert room.taken == 0
    assert not room.by_account


def test_an_account_fills_its_share_and_no_more() -> None:
    room, greedy, other = Room(100, 25), uuid4(), uuid4()
    with room.guest(greedy) as first, room.guest(greedy) as second, room.guest(other) as third:
        first.take(FREE_BYTES + 20)
        second.take(FREE_BYTES + 5)
        with pytest.raises(Overloaded, match="This account"):
            second.take(1)
        third.take(FREE_BYTES + 25)
        assert room.taken == 50
        first.leave()
        second.take(20)
    assert room.taken == 0
    assert not room.by_account


def test_the_first_bytes_are_free_in_a_full_room() -> None:
    room, account = Room(10, 10), uuid4()
    with room.guest(account) as full, room.guest(account) as small, room.guest(uuid4()) as other:
        full.take(FREE_BYTES + 10)
        for guest in (small, other):
            guest.take(FREE_BYTES)
            with pytest.raises(Overloaded):
                guest.take(1)


async def test_one_key_does_not_switch_off_the_writes_of_others(database_url: str, tmp_path: Path) -> None:
    slow = asyncio.Event()

    async def silent() -> AsyncIterator[bytes]:
        yield b" " * 300_000
        await slow.wait()
        yield b"{}"

    headers = {"Content-Type": "application/json"}
    async with serving(database_url, tmp_path, max_bodies_bytes=2_000_000, max_body_bytes=400_000) as served:
        greedy = [asyncio.create_task(served.client.post(JOBS, content=silent(), headers=headers)) for _ in range(9)]
        async with asyncio.timeout(20):
            while served.services.room.taken < 400_000:
                await asyncio.sleep(0.01)
            while sum(each.done() for each in greedy) < 7:
                await asyncio.sleep(0.01)
        assert {each.result().json()["error"] for each in greedy if each.done()} == {"overloaded"}
        assert (await served.client.post(JOBS, json=FOX)).status_code == 202, "small ones of the same key go on"
        async with await served.another() as other:
            large = await other.post(JOBS, content=b" " * 300_000 + b"{}", headers=headers)
            assert large.status_code == 422, "and large ones of other accounts"
        slow.set()
        assert sorted(each.status_code for each in await asyncio.gather(*greedy)) == [422, 422] + [503] * 7
        assert served.services.room.taken == 0


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
        yield b" " * (FREE_BYTES + 6_000)
        held.set()
        await slow.wait()
        yield b"{}"

    headers = {"Content-Type": "application/json"}
    async with serving(database_url, tmp_path, max_bodies_bytes=10_000, max_body_bytes=FREE_BYTES + 10_000) as served:
        first = asyncio.create_task(served.client.post(JOBS, content=dripping(), headers=headers))
        await asyncio.wait_for(held.wait(), 10)
        refused = await served.client.post(JOBS, content=b" " * (FREE_BYTES + 6_000) + b"{}", headers=headers)
        assert (refused.status_code, refused.json()["error"], refused.headers["retry-after"]) == (
            503,
            "overloaded",
            "5",
        )
        assert (await served.client.post(JOBS, json=FOX)).status_code == 202
        slow.set()
        assert (await first).status_code == 422
        again = await served.client.post(JOBS, content=b" " * (FREE_BYTES + 9_000) + b"{}", headers=headers)
        assert again.status_code == 422, "the room is free again"
