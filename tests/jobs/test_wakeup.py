"""Waking dispatchers: one NOTIFY for many asks, none without."""

from __future__ import annotations

import asyncio

from core.database import Database
from jobs.wakeup import CHANNEL, Wakeup


async def test_many_asks_are_one_notification(database: Database) -> None:
    listener = await database.listen(CHANNEL)
    wakeup = Wakeup(database)
    wakeup.start()
    try:
        for _ in range(100):
            wakeup.ask()
        assert await asyncio.wait_for(anext(listener), 2) == (CHANNEL, "")
        await asyncio.sleep(0.1)
        assert listener._queue.empty()
        wakeup.ask()
        assert await asyncio.wait_for(anext(listener), 2) == (CHANNEL, "")
    finally:
        await wakeup.stop()
        await listener.close()


async def test_it_goes_on_when_the_database_was_away(database: Database) -> None:
    lost = Database(database.url, size=1)
    wakeup = Wakeup(lost)
    wakeup.start()
    try:
        wakeup.ask()
        await asyncio.sleep(0.1)
        await lost.open()
        listener = await database.listen(CHANNEL)
        wakeup.ask()
        assert await asyncio.wait_for(anext(listener), 2) == (CHANNEL, "")
        await listener.close()
    finally:
        await wakeup.stop()
        await lost.close()


async def test_stopping_what_never_started_is_no_error(database: Database) -> None:
    await Wakeup(database).stop()
