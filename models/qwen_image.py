"""Qwen-Image: a picture from a text, by diffusers' `QwenImagePipeline`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.base import BlankOutput, Engine, EngineFault, LoadFailed, NonFiniteOutput, NotReady, OnStep
from models.runtime import dtype_for, named_faults, silence_progress_bars

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from models.weights import Weights

MULTIPLE = 16
"""Width and height are multiples of this: the VAE shrinks by 8, the transformer takes patches of 2x2."""
MIN_STEPS = 2
"""The scheduler's terminal shift divides by zero with a single step."""
GUIDANCE_SCALE = 4.0
"""`true_cfg_scale` of Qwen-Image's model card."""
MAX_PROMPT_TOKENS = 1024
"""The longest prompt that the pipeline takes; it drops what is beyond."""


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """A picture to make: `width` x `height` pixels, in `steps` denoising steps, from the noise that `seed` gives.

    `references` are pictures to follow, uint8 sRGB of shape (height, width, 3) each; only an edit engine takes any.

    Raises:
        ValueError: a size is no positive multiple of 16, there are fewer than 2 steps, or the seed is outside 0…2⁶³-1.
    """

    prompt: str
    negative_prompt: str = " "
    width: int
    height: int
    steps: int
    seed: int
    references: tuple[npt.NDArray[np.uint8], ...] = ()

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
    """A picture: `pixels` is uint8 sRGB of shape (height, width, 3); `details` is JSON for the job's record."""

    pixels: npt.NDArray[np.uint8]
    details: dict[str, Any]


class QwenImage(Engine[ImageRequest, ImageResult]):
    """Text to image. The same request on the same device and weights gives the same bytes."""

    name = "qwen-image"
    cancel = "step"
    step_limit_s = 20.0
    peak_ram_bytes = 1_000_000_000  # measured at 512x512 on the CPU: 0.88 GB

    def __init__(self) -> None:
        self._pipeline: Any = None
        self._device = ""
        self._weights_bytes = 0

    def load(self, weights: Weights, device: str) -> None:
        """See `Engine.load`. Reads safetensors only, and runs no code of the weights' folder."""
        from diffusers import QwenImagePipeline

        dtype = dtype_for(device)
        silence_progress_bars()
        try:
            with named_faults(f"loading {weights.reference}"):
                made_for = QwenImagePipeline.load_config(weights.path, local_files_only=True)["_class_name"]
                pipeline = QwenImagePipeline.from_pretrained(
                    weights.path, dtype=dtype, local_files_only=True, use_safetensors=True
                ).to(device)
        except EngineFault:
            raise
        except Exception as error:
            # Four libraries read the files, each with its own exceptions, some of them bare TypeErrors.
            raise LoadFailed(f"{weights.reference} is no Qwen-Image pipeline: {error}") from error
        if made_for != QwenImagePipeline.__name__:
            raise LoadFailed(f"{weights.reference} was made for {made_for}, not for {QwenImagePipeline.__name__}.")
        _check_tokenizer(pipeline, weights.reference)
        pipeline.set_progress_bar_config(disable=True)
        modules = (pipeline.text_encoder, pipeline.transformer, pipeline.vae)
        self._weights_bytes = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
        self._device = device
        self._pipeline = pipeline

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
        if request.references:
            raise ValueError("the text-to-image engine takes no references; they need the edit engine's pool")
        marks = [time.perf_counter()]

        def step_ended(_pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            # Reading the answer also waits for the device: without it, the host runs steps ahead of the GPU, progress
            # would be early and a stopped run would leave work behind.
            if not bool(torch.isfinite(tensors["latents"]).all()):
                raise NonFiniteOutput(f"The latents are not finite after step {index + 1} of {request.steps}.")
            marks.append(time.perf_counter())
            on_step(index + 1, request.steps)
            return {}

        with named_faults(f"making {request.width}x{request.height} pixels in {request.steps} steps"):
            picture = pipeline(
                prompt=request.prompt,
                negative_prompt=request.negative_prompt or " ",
                true_cfg_scale=GUIDANCE_SCALE,
                width=request.width,
                height=request.height,
                num_inference_steps=request.steps,
                generator=torch.Generator(self._device).manual_seed(request.seed),
                max_sequence_length=MAX_PROMPT_TOKENS,
                output_type="np",
                callback_on_step_end=step_ended,
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
                "steps": request.steps,
                "guidanceScale": GUIDANCE_SCALE,
                "scheduler": type(pipeline.scheduler).__name__,
                "timings": {
                    "totalSeconds": round(marks[-1] - marks[0], 3),
                    "stepSeconds": round((marks[-2] - marks[1]) / (request.steps - 1), 3),
                    "decodeSeconds": round(marks[-1] - marks[-2], 3),
                },
            },
        )

    def health(self) -> None:
        """See `Engine.health`. Asks the driver, which reports a broken context and waits for no work."""
        import torch

        self._ready()
        if torch.device(self._device).type == "cuda":
            with named_faults("asking the device for its memory"):
                torch.cuda.mem_get_info(self._device)

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

    def _ready(self) -> Any:
        if self._pipeline is None:
            raise NotReady("The engine has no weights; call load first.")
        return self._pipeline


def _megapixels(request: ImageRequest) -> float:
    return request.width * request.height / 1_000_000


def _check_tokenizer(pipeline: Any, reference: str) -> None:
    """An absent tokenizer loads as an empty one, and every prompt would give the same picture."""
    template = pipeline.prompt_template_encode.partition("{}")[0]
    tokens = len(pipeline.tokenizer(template).input_ids)
    if tokens != pipeline.prompt_template_encode_start_idx:
        raise LoadFailed(f"{reference}: its tokenizer is missing or another one: {tokens} tokens in the template.")
