"""An engine that writes down when it is entered, steps and is left, and a replica around it, for a real Serve."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.messages import Call, Message
from deployments.replica import Replica, ReplicaArgs
from models import registry
from models.base import DeviceLost, Engine, EngineFault, NotReady, OnStep
from models.weights import Weights

NAME = "recording"
STEP_LIMIT_SECONDS = 1.5
JOURNAL = ".journal"


@dataclass(frozen=True)
class Ask:
    """What the engine is asked to do: `steps` steps of `step_s` seconds, `lag_s` more between a stop and its return."""

    name: str
    steps: int = 3
    step_s: float = 0.02
    lag_s: float = 0.0
    trouble: str = ""
    deadline_s: float = 30.0


@dataclass(frozen=True)
class Made:
    """The engine's result."""

    made: Any
    details: dict[str, Any] = field(default_factory=dict)


class OddFault(EngineFault):
    """A fault of one request: the engine is as good as before."""

    code = "odd"
    recycle = False


class Recording(Engine[Ask, Made]):
    """One line of JSON for every event, in the hidden file `.journal` of its weights' folder."""

    name = NAME
    cancel = "step"
    step_limit_s = STEP_LIMIT_SECONDS
    peak_ram_bytes = 0

    def load(self, weights: Weights, device: str) -> None:
        self._journal = weights.path / JOURNAL

    def run(self, request: Ask, on_step: OnStep) -> Made:
        note(self._journal, request.name, "enter")
        try:
            for step in range(1, request.steps + 1):
                time.sleep(request.step_s)
                note(self._journal, request.name, "step")
                on_step(step, request.steps)
            return self._trouble(request)
        finally:
            time.sleep(request.lag_s)
            note(self._journal, request.name, "leave")

    def _trouble(self, request: Ask) -> Made:
        match request.trouble:
            case "fault":
                raise OddFault("this request cannot be made")
            case "recycle":
                raise DeviceLost("the device fell off the bus")
            case "bug":
                raise ZeroDivisionError("somebody divided by zero")
            case "unsendable":
                return Made(threading.Lock())
            case "stuck":
                time.sleep(3600)
            case "die":
                os._exit(9)
        return Made(request.name, {"steps": request.steps})

    def health(self) -> None:
        if not self._journal.parent.exists():
            raise NotReady("the weights are gone")

    def deadline_s(self, request: Ask) -> float:
        if request.trouble == "no deadline":
            raise ZeroDivisionError("no deadline for this")
        return request.deadline_s

    def peak_vram_bytes(self, request: Ask) -> int:
        return 0


class RecordingReplica(Replica):
    """The real replica; all that is added is a note of when a call arrives."""

    def __init__(self, args: ReplicaArgs) -> None:
        registry.ENGINES = {**registry.ENGINES, NAME: f"{Recording.__module__}:{Recording.__name__}"}
        super().__init__(args)

    async def run(self, call: Call) -> AsyncGenerator[Message]:
        note(self._weights.path / JOURNAL, call.request.name, "arrive")
        async for message in super().run(call):
            yield message


def note(journal: Path, name: str, event: str) -> None:
    """Add a line; CLOCK_MONOTONIC is one clock for all processes of a machine."""
    line = json.dumps({"name": name, "event": event, "at": time.monotonic(), "pid": os.getpid()}) + "\n"
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


class Journal:
    """What the engines on one weights folder wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "weights").write_text("none")

    def events(self, name: str, event: str) -> list[dict[str, Any]]:
        """All events of that kind of the request of that name, in order."""
        path = self.folder / JOURNAL
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["name"] == name and line["event"] == event]

    def at(self, name: str, event: str) -> float:
        """When the one event of that kind happened, in seconds of the monotonic clock."""
        (found,) = self.events(name, event)
        return float(found["at"])
