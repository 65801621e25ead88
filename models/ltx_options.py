"""What a fleet may choose about LTX-2.3, checked when the fleet file is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from models.base import Addition
from models.diffusers_options import DiffusersOptions

MIN_STEPS = 2
"""The full schedule's terminal shift divides by zero with a single step."""
DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)
REFINING_SIGMAS = (0.909375, 0.725, 0.421875)
"""Of the second stage (both: Lightricks/LTX-2, ltx_pipelines/utils/constants.py)."""
UPSAMPLER = "upsampler"
LORA = "lora"

UNGUIDED: Mapping[str, Any] = {
    **{"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0},
    **{"audio_guidance_scale": 1.0, "audio_stg_scale": 0.0, "audio_modality_scale": 1.0, "audio_guidance_rescale": 0.0},
    "spatio_temporal_guidance_blocks": None,
}
"""One pass of the transformer a step. To be said in full: diffusers' defaults are `GUIDED`."""
GUIDED: Mapping[str, Any] = {
    **{"guidance_scale": 3.0, "stg_scale": 1.0, "modality_scale": 3.0, "guidance_rescale": 0.7},
    **{"audio_guidance_scale": 7.0, "audio_stg_scale": 1.0, "audio_modality_scale": 3.0, "audio_guidance_rescale": 0.7},
}
"""The model card's guidance for the full model; it costs `GUIDED_PASSES`."""
GUIDED_PASSES = 4
"""In units of one pass a step: text and its absence, perturbed attention, modalities apart."""
PERTURBED_BLOCK = 28


class LtxOptions(DiffusersOptions):
    """The `options` of a pool whose engine is ltx-video."""

    schedule: Literal["distilled", "full"] = Field(
        "distilled",
        description="Which checkpoint the weights are. distilled: 8 steps, and 3 more at full size for extremeQuality, "
        "without any guidance. full: the steps asked for, with the model card's guidance, 4 passes a step.",
    )
    upsampler: Addition | None = Field(
        None, description="Weights with a folder latent_upsampler; None: it is in the engine's own."
    )
    refiner: Addition | None = Field(
        None,
        description="schedule full: the distilled LoRA, used in the second stage alone, which then needs no guidance; "
        "`file` names the .safetensors.",
    )
    decode_latents: int = Field(
        2, ge=1, le=2, description="Latent frames that the VAE decodes at once; each gives 8 frames."
    )

    def additions(self) -> Mapping[str, Addition]:
        """The upsampler under `UPSAMPLER`, the refiner under `LORA`, where they are named."""
        named = {UPSAMPLER: self.upsampler, LORA: self.refiner}
        return {name: addition for name, addition in named.items() if addition is not None}

    def accelerated(self) -> bool:
        """Whether anything but the plain pipeline is asked for."""
        return super().accelerated() or self.refiner is not None

    def passes(self) -> int:
        """What a step of the first stage costs, in passes of the transformer."""
        return GUIDED_PASSES if self.schedule == "full" else 1

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.refiner is None:
            return self
        if self.schedule == "distilled":
            raise ValueError("refiner is for the full schedule; a distilled model refines by itself")
        if self.refiner.file is None:
            raise ValueError("refiner: name its .safetensors under `file`")
        if self.compile or self.quantization != "none":
            raise ValueError("refiner is switched on and off between the stages; not beside compile or quantization")
        return self
