"""What every engine around a pipeline of diffusers does alike: load, prove that it can run, report its health."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from models.base import Engine, EngineFault, LoadFailed, NotReady, OnStep, RequestT, ResultT
from models.runtime import dtype_for, is_cpu, named_faults, silence_progress_bars

if TYPE_CHECKING:
    from models.weights import Weights

COMPILED_STEP_LIMIT_SECONDS = 180.0


class DiffusersEngine(Engine[RequestT, ResultT]):
    """Reads a folder of safetensors, runs no code of it."""

    _class_name: ClassVar[str]
    _makes: ClassVar[str]
    """What a run makes, for messages."""

    _pipeline: Any = None
    _device = ""
    _weights_bytes = 0
    _setup: dict[str, Any]

    def load(self, weights: Weights, device: str) -> None:
        """See `Engine.load`. Reads safetensors only, and runs no code of the weights' folder.

        Beyond the plain pipeline on the CPU, small results are made before it returns: what does not work together, or
        is compiled at its first use, shows here and not in a paid job.
        """
        import torch

        dtype = dtype_for(device, self.options.dtype)
        silence_progress_bars()
        torch.backends.cudnn.deterministic = True
        try:
            with named_faults(f"loading {weights.reference}"):
                pipeline = self._read(weights, dtype)
                setup = self._settle(pipeline, weights, device)
        except EngineFault:
            raise
        except Exception as error:
            # Six libraries read the files and change the model, each with its own exceptions, some bare TypeErrors.
            raise LoadFailed(f"{weights.reference} is no {self._class_name} that can run so: {error}") from error
        pipeline.set_progress_bar_config(disable=True)
        self._weights_bytes = _bytes_on(pipeline, device)
        self._setup = setup
        self._device = device
        if self.options.compile:
            self.step_limit_s = max(self.step_limit_s, COMPILED_STEP_LIMIT_SECONDS)
        self._pipeline = pipeline
        if not is_cpu(device) or self.options.accelerated():
            self._prove(weights.reference)

    def health(self) -> None:
        """See `Engine.health`. Asks the driver, which reports a broken context and waits for no work."""
        import torch

        self._ready()
        if torch.device(self._device).type == "cuda":
            with named_faults("asking the device for its memory"):
                torch.cuda.mem_get_info(self._device)

    @abstractmethod
    def _read(self, weights: Weights, dtype: Any) -> Any:
        """The pipeline of the folder, in host memory."""

    @abstractmethod
    def _settle(self, pipeline: Any, weights: Weights, device: str) -> dict[str, Any]:
        """Put `pipeline` on `device` as the options say; what was chosen, as JSON."""

    @abstractmethod
    def _proofs(self) -> Iterable[RequestT]:
        """Small requests that use all that the options ask for."""

    def _draw(self, request: RequestT, on_step: OnStep) -> None:
        """A run to its end, its result thrown away."""
        self.run(request, on_step)

    def _ready(self) -> Any:
        if self._pipeline is None:
            raise NotReady("The engine has no weights; call load first.")
        return self._pipeline

    def _prove(self, reference: str) -> None:
        try:
            for request in self._proofs():
                self._draw(request, lambda step, total, preview=None, /: None)
        except EngineFault:
            self._pipeline = None
            raise
        except Exception as error:
            self._pipeline = None
            raise LoadFailed(
                f"{reference} loads, but cannot make a {self._makes} with these options: {error}"
            ) from error


def plain_text(
    tokenizer: Any, control: re.Pattern[str], field: str, text: str, limit: int, adjustments: list[dict[str, Any]]
) -> str:
    """`text` without control tokens, whose first character `control` finds, and cut to `limit` tokens.

    Beyond the limit the pipeline would lose it or fail; a cut is appended to `adjustments`.
    """
    plain = control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    tokens = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)
    ends = tokens["offset_mapping"]
    if len(ends) <= limit:
        return plain
    reason = f"the model reads {limit} tokens; what is beyond was left out"
    adjustments.append(adjustment(field, f"{len(ends)} tokens", f"{limit} tokens", reason))
    return plain[: ends[limit - 1][1]]


def adjustment(field: str, given: str, to: str, reason: str) -> dict[str, Any]:
    """An entry in the form of a job's `inputAdjustments`."""
    return {"field": field, "from": given, "to": to, "reason": reason, "at": "run"}


def _bytes_on(pipeline: Any, device: str) -> int:
    import torch

    if not is_cpu(device):
        return int(torch.cuda.memory_allocated(device))
    modules = (each for each in pipeline.components.values() if isinstance(each, torch.nn.Module))
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
