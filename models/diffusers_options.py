"""What a fleet may choose about every engine on diffusers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.base import EngineOptions

Attention = Literal["auto", "sdpa", "flash3", "flash3-hub"]
Quantization = Literal["none", "fp8", "fp8-weight-only", "int8-weight-only"]


class DiffusersOptions(EngineOptions):
    """The options that all of them share. The defaults are the plain pipeline."""

    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="auto: bfloat16 on an accelerator, float32 on the CPU. float16 overflows in these models."
    )
    attention: Attention = Field(
        "auto",
        description="auto: FlashAttention 3 from the hub on a Hopper GPU where the package kernels is installed, "
        "PyTorch's own (sdpa) elsewhere. A backend that is named must work, or the engine does not load.",
    )
    compile: bool = Field(False, description="Compile the transformer's repeated block at load (minutes).")
    quantization: Quantization = Field("none", description="Of the transformer's linear layers, by torchao.")
    text_encoder: Literal["device", "offload"] = Field(
        "device", description="offload: kept in host memory and streamed to the device layer by layer for each prompt."
    )
    previews: bool = Field(True, description="Send a small picture of the state after 2 s, 4 s, 8 s, …")

    def accelerated(self) -> bool:
        """Whether anything but the plain pipeline is asked for."""
        asked = (self.compile, self.quantization, self.text_encoder, self.dtype)
        return asked != (False, "none", "device", "auto")
