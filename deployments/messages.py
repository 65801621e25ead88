"""What a dispatcher and a replica say to each other over one streaming call."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from deployments.clips import Sink


@dataclass(frozen=True)
class Call:
    """One segment's request to an engine, under a fence that the replica checks against the database.

    Fields of `request` may hold object references, or tuples of them, and stored clips: the replica puts the objects and
    the clips in their place. An engine whose result is a clip needs a `sink` that takes it. `request_id` is that of the
    job's submit, for the log.
    """

    job_id: UUID
    fence: int
    request: Any
    sink: Sink | None = None
    request_id: str | None = None


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
    """Step `step` of `total` is done; `preview` is a small WebP file of what there is so far, now and then."""

    step: int
    total: int
    preview: bytes | None = None


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


@dataclass(frozen=True)
class Unstored:
    """The store of objects did not take or give what the call needs: nobody's fault. The fields are StoreUnavailable's."""

    reason: str
    advice: str
    gpu_seconds: float


Message = Started | Progress | Finished | Halted | Faulted | Unstored
End = Finished | Halted | Faulted | Unstored
