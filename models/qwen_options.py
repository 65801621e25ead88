"""What a fleet may choose about Qwen-Image and Qwen-Image-Edit, checked when the fleet file is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from models.base import Addition, EngineOptions
from models.diffusers_options import DiffusersOptions

MIN_STEPS = 2
"""The scheduler's terminal shift divides by zero with a single step."""
STANDARD_STEPS = 30
"""Steps of a request that asks for no high detail; a distilled model's own count stands for them."""
LONG_STEPS = 20
"""From so many steps on, a cache is worth its error."""
LORA = "lora"
MIN_REFERENCE_PIXELS = 64 * 64


class Distillation(EngineOptions):
    """A LoRA that needs few steps and no guidance, such as those of lightx2v/Qwen-Image-Lightning."""

    lora: Addition = Field(description="Its weights; `file` names the .safetensors.")
    steps: int = Field(
        ge=MIN_STEPS, le=16, description="In place of the standard 30; high detail takes half as many more."
    )
    strength: float = Field(1.0, gt=0, le=2)


class Cache(EngineOptions):
    """Skipping work that hardly changes from one step to the next; only in runs of 20 steps and more."""

    method: Literal["first-block", "taylorseer"]
    threshold: float = Field(
        0.08, gt=0, lt=1, description="first-block: residual change below which a step is skipped."
    )
    interval: int = Field(3, ge=2, le=10, description="taylorseer: one step of so many is computed in full.")


class QwenOptions(DiffusersOptions):
    """The `options` of a pool whose engine is qwen-image or qwen-image-edit. The defaults are the plain pipeline."""

    distillation: Distillation | None = None
    cache: Cache | None = None
    true_cfg_scale: float = Field(4.0, ge=1, le=20, description="Guidance; 1 is off. The model card's value is 4.")
    reference_pixels: int = Field(
        1024 * 1024, ge=MIN_REFERENCE_PIXELS, le=2048 * 2048, description="Edit: each picture's area for the VAE."
    )
    condition_pixels: int = Field(
        384 * 384,
        ge=MIN_REFERENCE_PIXELS,
        le=1024 * 1024,
        description="Edit: each picture's area for the text encoder.",
    )

    def additions(self) -> Mapping[str, Addition]:
        """The distillation's LoRA, under `LORA`."""
        return {} if self.distillation is None else {LORA: self.distillation.lora}

    def accelerated(self) -> bool:
        """Whether anything but the plain pipeline is asked for."""
        return super().accelerated() or self.distillation is not None or self.cache is not None

    def guidance(self) -> float:
        """What goes to the pipeline as `true_cfg_scale`: off for a distilled model."""
        return 1.0 if self.distillation else self.true_cfg_scale

    def steps_for(self, asked: int) -> int:
        """How many steps a request of `asked` steps is given."""
        if self.distillation is None:
            return asked
        return max(MIN_STEPS, -(-asked * self.distillation.steps // STANDARD_STEPS))

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.cache and self.distillation:
            raise ValueError("cache is for long schedules; beside distillation there is nothing left to skip")
        if self.cache and self.compile:
            raise ValueError("cache changes the blocks that compile compiles; choose one of the two")
        return self
