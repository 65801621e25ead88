"""These tests share one database, emptied before each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.services import Services
from core.database import Database
from tests.emptied import database, database_url, kept
from tests.jobs.world import World
from tests.webhooks.scene import Scene, settings

__all__ = ["database", "database_url", "kept"]


@pytest.fixture
async def scene(database: Database, tmp_path: Path) -> AsyncIterator[Scene]:
    """Services over the database, and a dispatcher that ends jobs."""
    services = Services.of(settings(database.url, tmp_path))
    await services.database.open()
    world = World(database)
    await world.open()
    yield Scene(services, world)
    await services.database.close()
