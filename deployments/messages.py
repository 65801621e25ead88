"""What a dispatcher and a replica say to each other over one streaming call."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True)
class Call:
    """One segment's request to an engine, under a fence that the replica checks against the database.

    Fields of `request` may hold object references, or tuples of them: the replica puts the objects in their place.
    """

    job_id: UUID
    fence: int
    request: Any


@dataclass(frozen=True)
class Started:
    """The engine is this call's own now. `replica` is its actor's name; a stop takes `stop_limit_s` seconds at most."""

    replica: str
    engine: str
    weights_digest: str
    stand_in: bool
    stop_limit_s: float


@dataclass(frozen=True)
class Progress:
    """Step `step` of `total` is done."""

    step: int
    total: int


@dataclass(frozen=True)
class Finished:
    """The engine's result: `result` is an object reference to it, `details` are small and may be shown to the caller."""

    result: Any
    gpu_seconds: float
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Halted:
    """The permit was lost: the engine stopped after `step` and its thread has returned."""

    step: int
    gpu_seconds: float
    gpu_released_at: datetime


@dataclass(frozen=True)
class Faulted:
    """The engine failed; with `recycle` the replica ends itself after saying so."""

    code: str
    message: str
    gpu_seconds: float
    recycle: bool


Message = Started | Progress | Finished | Halted | Faulted
End = Finished | Halted | Faulted
