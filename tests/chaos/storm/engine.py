"""An engine that does what its prompt says: takes a time, and goes wrong in every way that engines go wrong.

The prompt is JSON: `{"id": "…", "s": 0.3, "fault": "oom", "times": 1}`. The fault comes at the middle of the run, in the
first `times` runs with that id. Each of ten steps takes its share of the time; a long run has more, of 0.4 s.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from models.base import BlankOutput, DeviceLost, Engine, EngineOptions, NonFiniteOutput, OnStep, OutOfMemory
from models.weights import Weights
from tests.chaos.storm.ground import note, once

NAME = "storm"
STEPS = 10
STEP_SECONDS = 0.4
STEP_LIMIT_SECONDS = 3.0
PATIENCE_SECONDS = 6.0
"""How much longer than it should a run may take: its deadline."""

FAULTS = ("oom", "nan", "blank", "lost", "hang", "garbage", "unsendable", "bug", "die")


@dataclass(frozen=True)
class Picture:
    """The result of a run."""

    pixels: npt.NDArray[np.uint8]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What a chain of the storm's own asks; those of pictures send theirs."""

    prompt: str
    seed: int


class StormOptions(EngineOptions):
    """`revision` only tells one fleet from the next."""

    revision: int = 0


class StormEngine(Engine[Any, Any]):
    """See the module."""

    Options = StormOptions
    name = NAME
    cancel = "step"
    step_limit_s = STEP_LIMIT_SECONDS
    peak_ram_bytes = 0

    def load(self, weights: Weights, device: str) -> None:
        self._loaded = True

    def run(self, request: Any, on_step: OnStep) -> Any:
        order = json.loads(request.prompt)
        fault, steps = order.get("fault"), max(STEPS, math.ceil(order["s"] / STEP_SECONDS))
        for step in range(1, steps + 1):
            time.sleep(order["s"] / steps)
            if step == steps // 2 and fault is not None and once(order["id"], order.get("times", 1)):
                return self._trouble(fault)
            on_step(step, steps)
        drawn = np.random.default_rng(request.seed)
        return Picture(drawn.integers(0, 255, (32, 32, 3), np.uint8), {"steps": steps})

    def _trouble(self, fault: str) -> Any:
        note("engine", fault=fault)
        match fault:
            case "oom":
                raise OutOfMemory("the device's memory is exhausted")
            case "nan":
                raise NonFiniteOutput("NaN in the latents")
            case "blank":
                raise BlankOutput("every pixel has the same colour")
            case "lost":
                raise DeviceLost("the device fell off the bus")
            case "hang":
                time.sleep(3600)
            case "garbage":
                return Picture(np.zeros((0, 3), np.uint8))
            case "unsendable":
                return threading.Lock()
            case "die":
                os._exit(9)
        raise ZeroDivisionError("somebody divided by zero")

    def health(self) -> None:
        return None

    def deadline_s(self, request: Any) -> float:
        return float(json.loads(request.prompt)["s"]) + PATIENCE_SECONDS

    def peak_vram_bytes(self, request: Any) -> int:
        return 0
