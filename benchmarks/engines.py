"""An engine that makes a picture in no time, and what answers a streaming call without a job: the yardstick of one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from deployments.messages import Finished, Message, Started
from deployments.replica import Replica, ReplicaArgs
from models import registry
from models.base import Engine, OnStep
from models.weights import Weights

NAME = "instant"
CANVAS = 256
"""Pixels of a side: what the embedded fleet's stand-in makes."""


@dataclass(frozen=True)
class Picture:
    """The result of an engine."""

    pixels: npt.NDArray[np.uint8]
    details: dict[str, Any] = field(default_factory=dict)


def picture() -> Picture:
    """One with content, so that an encoder has something to do."""
    rows, columns = np.mgrid[0:CANVAS, 0:CANVAS]
    return Picture(np.stack([rows, columns, rows ^ columns], axis=-1).astype(np.uint8))


class Instant(Engine[Any, Picture]):
    """Takes no time."""

    name = NAME
    cancel = "step"
    step_limit_s = 60.0
    peak_ram_bytes = 0

    def load(self, weights: Weights, device: str) -> None:
        self._picture = picture()

    def run(self, request: Any, on_step: OnStep) -> Picture:
        on_step(1, 1)
        return self._picture

    def health(self) -> None:
        return None

    def deadline_s(self, request: Any) -> float:
        return 60.0

    def peak_vram_bytes(self, request: Any) -> int:
        return 0


class InstantReplica(Replica):
    """The real replica around it."""

    def __init__(self, args: ReplicaArgs) -> None:
        registry.ENGINES = {**registry.ENGINES, NAME: f"{Instant.__module__}:{Instant.__name__}"}
        super().__init__(args)


class Bare:
    """The same call, answered at once, without permit, thread or database."""

    def __init__(self) -> None:
        self._picture = picture()

    async def run(self, request: Any) -> AsyncGenerator[Message]:
        """Begin, and end with a reference to the picture."""
        yield Started("bare", NAME, "sha256:00", True, 60.0)
        yield Finished(ray.put(self._picture), 0.0)
