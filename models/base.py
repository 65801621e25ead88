"""What an engine is: the contract between a model family and the replica that runs it.

An engine is loaded once, then asked for one result at a time. It knows neither Ray nor HTTP: progress goes out and the
wish to stop comes in through one callback, faults go out as one exception class per cause.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from models.weights import Weights

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class OnStep(Protocol):
    """Called after each finished step, `step` from 1 to `total`; raises `Stopped` to end the run.

    `preview` is a small WebP file of what there is so far, at steps that give one.
    """

    def __call__(self, step: int, total: int, preview: bytes | None = None, /) -> None:
        """Note the step."""


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


class FrozenOutput(EngineFault):
    """Every frame of the clip is the same, or the sound is silence throughout."""

    code = "frozen_output"
    recycle = True


SPOILT: frozenset[str] = frozenset({NonFiniteOutput.code, BlankOutput.code, FrozenOutput.code})
"""Codes of what came out and is of no use to anybody: the same seed would give it again."""


class EngineOptions(BaseModel):
    """How a fleet wants an engine to run: the `options` of its pool. Each engine has a subclass of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    def additions(self) -> Mapping[str, Addition]:
        """Weights that the options need beside the engine's own, by the name under which `load` looks for them."""
        return {}


class Addition(BaseModel):
    """Further weights: a reference of models.weights, and the one file of it that is wanted (None: all)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str
    file: str | None = None


class Engine(ABC, Generic[RequestT, ResultT]):
    """One model family, runnable. Not re-entrant: the replica gives it one request at a time."""

    Options: ClassVar[type[EngineOptions]] = EngineOptions
    """What a fleet may choose."""
    name: ClassVar[str]
    """The engine's name in fleets, job records and metrics."""
    cancel: ClassVar[Cancel]
    """Where `on_step` may end a run."""
    step_limit_s: float
    """Seconds; the longest time between two calls of `on_step`, or between one and the run's start or end."""
    peak_ram_bytes: ClassVar[int]
    """Host memory of a process that runs the engine with weights of negligible size."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        """Without weights.

        Raises:
            ValidationError: `options` are not those of `Options`.
        """
        self.options: Any = self.Options.model_validate(options or {})

    @abstractmethod
    def load(self, weights: Weights, device: str) -> None:
        """Make the engine ready on `device` (`cpu`, `cuda`, `cuda:1`), with all that its options ask for.

        Uses the network only where an option says so.

        Raises:
            LoadFailed: the weights do not fit the engine, the device is not there, or an option cannot be had here.
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
