"""Qwen-Image: a picture from a text, by diffusers' `QwenImagePipeline`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models import qwen_setup
from models.base import BlankOutput, LoadFailed, NonFiniteOutput, OnStep
from models.diffusers_engine import DiffusersEngine, adjustment, plain_text
from models.previews import Schedule
from models.qwen_options import LONG_STEPS, MIN_STEPS, QwenOptions
from models.qwen_preview import preview
from models.runtime import named_faults

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from models.weights import Weights

MULTIPLE = 16
"""Width and height are multiples of this: the VAE shrinks by 8, the transformer takes patches of 2x2."""
MAX_PROMPT_TOKENS = 1000
"""The longest prompt; the pipeline holds 1024 tokens with the template's own."""
PREVIEW_SECONDS = 2.0
"""Until the first preview; each further one comes after twice the time, so that a run of any length has a few."""

_PIPELINE_TOKENS = 1024
_PROOF_CANVASES = ((256, 256), (512, 384))
_CONTROL = re.compile(r"<\|(?=\w+\|>)")
"""What begins a control token: in a caller's text it must be only text."""


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """A picture to make: `width` x `height` pixels, in `steps` denoising steps, from the noise that `seed` gives.

    `references` are pictures to follow, uint8 sRGB of shape (height, width, 3) each (on their way to an engine: references
    to such); an edit engine needs one or more, the other takes none.

    Raises:
        ValueError: a size is no positive multiple of 16, there are fewer than 2 steps, or the seed is outside 0…2⁶³-1.
    """

    prompt: str
    negative_prompt: str = " "
    width: int
    height: int
    steps: int
    seed: int
    references: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for side in (self.width, self.height):
            if side <= 0 or side % MULTIPLE:
                raise ValueError(f"{self.width}x{self.height}: both sides must be positive multiples of {MULTIPLE}")
        if self.steps < MIN_STEPS:
            raise ValueError(f"{self.steps} steps: Qwen-Image needs at least {MIN_STEPS}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed}: must be from 0 to 2^63 - 1")


@dataclass(frozen=True, eq=False)
class ImageResult:
    """A picture: `pixels` is uint8 sRGB of shape (height, width, 3); `details` is JSON for the job's record.

    What could not be done as asked stands in `details["adjustments"]`, in the form of a job's `inputAdjustments`.
    """

    pixels: npt.NDArray[np.uint8]
    details: dict[str, Any]


class QwenImage(DiffusersEngine[ImageRequest, ImageResult]):
    """Text to image. The same request on the same kind of device and weights gives the same bytes."""

    Options = QwenOptions
    options: QwenOptions
    name = "qwen-image"
    cancel = "step"
    step_limit_s = 20.0
    peak_ram_bytes = 1_000_000_000  # measured at 512x512 on the CPU: 0.88 GB
    _class_name = "QwenImagePipeline"
    _makes = "picture"

    def run(self, request: ImageRequest, on_step: OnStep) -> ImageResult:
        """See `Engine.run`: a step is a denoising step; the VAE's decoding follows the last one.

        Raises:
            NonFiniteOutput: NaN or infinity in the latents after a step, or in the decoded picture.
            BlankOutput: a picture of one colour.
            OutOfMemory, DeviceLost, NotReady, Stopped: as in `Engine`.
        """
        import numpy as np
        import torch

        pipeline = self._ready()
        inputs = self._inputs(request)
        steps, guidance = self.options.steps_for(request.steps), self.options.guidance()
        adjustments: list[dict[str, Any]] = []
        prompt = self._text("prompt", request.prompt, adjustments)
        negative = self._text("negativePrompt", request.negative_prompt or " ", adjustments)
        if guidance <= 1 and negative.strip():
            adjustments.append(adjustment("negativePrompt", negative, "", "this model is distilled and takes none"))
        cached = qwen_setup.cache_for(pipeline.transformer, self.options.cache, steps)
        marks = [time.perf_counter()]
        previews = Schedule(PREVIEW_SECONDS)

        def step_ended(_pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            latents = tensors["latents"]
            # Reading the answer also waits for the device: without it, the host runs steps ahead of the GPU, progress
            # would be early and a stopped run would leave work behind.
            if not bool(torch.isfinite(latents).all()):
                raise NonFiniteOutput(f"The latents are not finite after step {index + 1} of {steps}.")
            marks.append(time.perf_counter())
            if self.options.previews and index + 1 < steps and previews.due(marks[-1] - marks[0]):
                on_step(index + 1, steps, preview(latents, request.width, request.height))
            else:
                on_step(index + 1, steps)
            return {}

        with named_faults(f"making {request.width}x{request.height} pixels in {steps} steps"):
            picture = pipeline(
                prompt=prompt,
                negative_prompt=negative if guidance > 1 else None,
                true_cfg_scale=guidance,
                width=request.width,
                height=request.height,
                num_inference_steps=steps,
                # Drawn on the CPU, the noise of a seed is the same on every device.
                generator=torch.Generator("cpu").manual_seed(request.seed),
                max_sequence_length=_PIPELINE_TOKENS,
                output_type="np",
                callback_on_step_end=step_ended,
                **inputs,
            ).images[0]
        if not np.isfinite(picture).all():
            raise NonFiniteOutput("The decoded picture holds values that are not finite.")
        pixels: npt.NDArray[np.uint8] = (picture * 255).round().astype(np.uint8)
        if (pixels == pixels[0, 0]).all():
            raise BlankOutput(f"Every pixel of the picture is {pixels[0, 0].tolist()}.")
        marks.append(time.perf_counter())
        return ImageResult(
            pixels,
            {
                "seed": request.seed,
                "steps": steps,
                "guidanceScale": guidance,
                "scheduler": type(pipeline.scheduler).__name__,
                **self._setup,
                "cache": cached,
                "timings": {
                    "totalSeconds": round(marks[-1] - marks[0], 3),
                    "stepSeconds": round((marks[-2] - marks[1]) / (steps - 1), 3),
                    "decodeSeconds": round(marks[-1] - marks[-2], 3),
                },
                "adjustments": adjustments,
            },
        )

    def deadline_s(self, request: ImageRequest) -> float:
        """See `Engine.deadline_s`. A minute, and ten times the 0.6 s a step and megapixel published for 80 GB cards.

        Tiny weights on two CPU cores stay far below it (measured: 4 s for 512x512 in 30 steps).
        """
        return 60.0 + 6.0 * request.steps * _megapixels(request)

    def peak_vram_bytes(self, request: ImageRequest) -> int:
        """See `Engine.peak_vram_bytes`. Beside the weights 1 GB and 3.5 GB a megapixel, an estimate.

        With 58 GB of weights it lies just above the peaks published for the edit pipeline, which needs more than this
        one: 61 GB at 1024x1024, 66 GB at 1536x1536 (vllm-omni, issues 3684 and 3695).

        Raises:
            NotReady: the weights decide, and there are none yet.
        """
        self._ready()
        if self._device == "cpu":
            return 0
        return self._weights_bytes + round(1e9 + 3.5e9 * _megapixels(request))

    def _read(self, weights: Weights, dtype: Any) -> Any:
        """The pipeline of the folder, in host memory."""
        import diffusers

        kind = getattr(diffusers, self._class_name)
        made_for = kind.load_config(weights.path, local_files_only=True)["_class_name"]
        if made_for != self._class_name:
            raise LoadFailed(f"{weights.reference} was made for {made_for}, not for {self._class_name}.")
        pipeline = kind.from_pretrained(
            weights.path, dtype=dtype, local_files_only=True, use_safetensors=True, **self._components(weights)
        )
        _check_tokenizer(pipeline, self._tokenizer(pipeline), weights.reference)
        return pipeline

    def _components(self, weights: Weights) -> dict[str, Any]:
        """Components that the pipeline does not read by itself."""
        return {}

    def _tokenizer(self, pipeline: Any) -> Any:
        return pipeline.tokenizer

    def _inputs(self, request: ImageRequest) -> dict[str, Any]:
        """What the pipeline is given beside text, size and seed."""
        if request.references:
            raise ValueError("the text-to-image engine takes no references; they need the edit engine's pool")
        return {}

    def _text(self, field: str, text: str, adjustments: list[dict[str, Any]]) -> str:
        tokenizer = self._tokenizer(self._pipeline)
        return plain_text(tokenizer, _CONTROL, field, text, MAX_PROMPT_TOKENS, adjustments)

    def _settle(self, pipeline: Any, weights: Weights, device: str) -> dict[str, Any]:
        return qwen_setup.prepare(pipeline, self.options, weights, device)

    def _proofs(self) -> Iterator[ImageRequest]:
        steps = LONG_STEPS if self.options.cache else MIN_STEPS
        return (self._proof(width, height, steps) for width, height in _PROOF_CANVASES)

    def _proof(self, width: int, height: int, steps: int) -> ImageRequest:
        return ImageRequest(prompt="a red fox", width=width, height=height, steps=steps, seed=0)


def _megapixels(request: ImageRequest) -> float:
    return request.width * request.height / 1_000_000


def _check_tokenizer(pipeline: Any, tokenizer: Any, reference: str) -> None:
    """An absent tokenizer loads as an empty one, and every prompt would give the same picture."""
    template = pipeline.prompt_template_encode.partition("{}")[0]
    tokens = len(tokenizer(template).input_ids)
    if tokens != pipeline.prompt_template_encode_start_idx:
        raise LoadFailed(f"{reference}: its tokenizer is missing or another one: {tokens} tokens in the template.")
