"""These tests share one database, emptied before each and checked after each, in which PostgreSQL never just restarted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from core.database import Database
from tests.emptied import database, database_url, kept
from tests.jobs.invariants import broken
from tests.jobs.world import World

__all__ = ["database", "database_url", "kept"]


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """Two pools, one dispatcher; whatever the test did, the invariants hold at its end."""
    made = World(database)
    await made.restart_grace("0")
    await made.open()
    yield made
    assert await broken(database) == []
