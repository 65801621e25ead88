"""What an engine is: the contract between a model family and the replica that runs it.

An engine is loaded once, then asked for one result at a time. It knows neither Ray nor HTTP: progress goes out and the
wish to stop comes in through one callback, faults go out as one exception class per cause.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from models.weights import Weights

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

OnStep = Callable[[int, int], None]
"""`on_step(step, total)`: called after each finished step, `step` from 1 to `total`; raises `Stopped` to end the run."""

Cancel = Literal["step", "stage", "kill"]
"""Where a run can be stopped: at the next step, at the end of its stage, or only by ending the process."""


class Stopped(Exception):
    """The run was ended on request. Raised by `on_step`, passed through by `Engine.run`.

    `step` is the last finished step, from 1; 0 when none was.
    """

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"stopped after step {self.step}"


class EngineFault(Exception):
    """An engine could not do its work: one subclass per cause.

    `code` names the cause in job records and metrics. `recycle` says that the process can no longer be trusted: its
    replica reports the fault and then ends itself, so that the retry runs in a fresh one.
    """

    code: ClassVar[str]
    recycle: ClassVar[bool]


class LoadFailed(EngineFault):
    """The weights do not fit the engine, or the device is not there."""

    code = "load_failed"
    recycle = True


class NotReady(EngineFault):
    """`run` or `health` was called on an engine without weights."""

    code = "not_ready"
    recycle = False


class OutOfMemory(EngineFault):
    """The device's or the host's memory is exhausted; what is left of it is fragmented."""

    code = "out_of_memory"
    recycle = True


class DeviceLost(EngineFault):
    """The accelerator reported an error that no later call in this process survives."""

    code = "device_lost"
    recycle = True


class NonFiniteOutput(EngineFault):
    """NaN or infinity in latents or pixels."""

    code = "non_finite_output"
    recycle = True


class BlankOutput(EngineFault):
    """Every pixel of the picture has the same colour."""

    code = "blank_output"
    recycle = True


class Engine(ABC, Generic[RequestT, ResultT]):
    """One model family, runnable. Not re-entrant: the replica gives it one request at a time."""

    name: ClassVar[str]
    """The engine's name in fleets, job records and metrics."""
    cancel: ClassVar[Cancel]
    """Where `on_step` may end a run."""
    step_limit_s: ClassVar[float]
    """Seconds; the longest time between two calls of `on_step`, or between one and the run's start or end."""
    peak_ram_bytes: ClassVar[int]
    """Host memory of a process that runs the engine with weights of negligible size."""

    @abstractmethod
    def load(self, weights: Weights, device: str) -> None:
        """Make the engine ready on `device` (`cpu`, `cuda`, `cuda:1`). Never uses the network.

        Raises:
            LoadFailed: the weights do not fit the engine, or the device is not there.
            OutOfMemory: they do not fit the device.
        """

    @abstractmethod
    def run(self, request: RequestT, on_step: OnStep) -> ResultT:
        """The result of `request`. Whatever `on_step` raises ends the run at once, with the device idle.

        Raises:
            Stopped: from `on_step`.
            EngineFault: the subclass for the cause.
        """

    @abstractmethod
    def health(self) -> None:
        """Return when a request could be run. Safe beside a running `run`.

        Raises:
            EngineFault: the subclass for the cause.
        """

    @abstractmethod
    def deadline_s(self, request: RequestT) -> float:
        """Seconds after which a run of `request` has certainly gone wrong."""

    @abstractmethod
    def peak_vram_bytes(self, request: RequestT) -> int:
        """Accelerator memory of a run of `request`, weights included; 0 on the CPU."""
