"""What a process of the storm wears: its engine, its chains, a store with faults and a clock that jumps.

Everything is put in the place of what the modules of the service had imported by then, so import those first.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from core import clock
from models import registry
from storage import factory
from tests.chaos.storm import engine
from tests.chaos.storm.faulty_store import open_faulty
from tests.chaos.storm.ground import told

SERVICE = frozenset({"api", "cluster", "core", "deployments", "jobs", "killatamata", "models", "storage", "webhooks"})

_now = clock.now
_open_store = factory.open_store
_engines = registry.ENGINES


def jumpy() -> datetime:
    """The present instant, or what this process is told to take for it."""
    jumped = told("clock")
    return datetime.now(UTC) + timedelta(seconds=jumped["seconds"] if jumped.get("pid") == os.getpid() else 0)


def replace(old: Any, new: Any) -> None:
    """Put `new` in the place of `old` in every module of the service that has it."""
    for place, module in list(sys.modules.items()):
        if place.partition(".")[0] in SERVICE:
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, new)


def wear() -> None:
    """Put it on; twice is as good as once."""
    replace(_engines, {**_engines, engine.NAME: f"{engine.__name__}:StormEngine"})
    replace(_open_store, open_faulty)
    replace(_now, jumpy)
