"""LTX-2.3 with random weights, drawn where they will run: full size without a download."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.architectures import Size, filled, hollow
from models.base import LoadFailed
from models.ltx_video import LtxVideo
from models.tiny_ltx_video import SCHEDULER, TINY, makers, train_tokenizer
from models.weights import Weights

# The config.json files of Lightricks/LTX-2.3 as diffusers converts them, and of google/gemma-3-12b-it.
FULL: dict[str, dict[str, Any]] = {
    "transformer": {},
    "connectors": {
        "video_connector_num_attention_heads": 32,
        "video_connector_num_layers": 8,
        "audio_connector_num_attention_heads": 32,
        "audio_connector_attention_head_dim": 64,
        "audio_connector_num_layers": 8,
    },
    "vae": {
        "block_out_channels": (256, 512, 1024, 1024),
        "decoder_block_out_channels": (256, 512, 512, 1024),
        "layers_per_block": (4, 6, 4, 2, 2),
        "decoder_layers_per_block": (4, 6, 4, 2, 2),
    },
    "audio_vae": {},
    "vocoder": {},
    "latent_upsampler": {},
    "text": {
        "hidden_size": 3840,
        "intermediate_size": 15_360,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
    },
    "vision": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
    },
}
VOCABULARY: dict[Size, int] = {"full": 262_208, "tiny": 1024}


class DrawnLtxVideo(LtxVideo):
    """The engine as it is, around parts that were drawn instead of read. `weights.reference` is `drawn:<size>`."""

    def _read(self, weights: Weights, dtype: Any) -> Any:
        from models.ltx_pipeline import LtxPipeline

        parts = drawn_parts(weights, dtype)
        upsampler = parts.pop("latent_upsampler")
        pipeline = LtxPipeline(**parts)
        pipeline.latent_upsampler = upsampler
        return pipeline


def drawn_parts(weights: Weights, dtype: Any) -> dict[str, Any]:
    """The parts of a pipeline and its upsampler, their parameters random and on the device that is `weights.path`.

    Raises:
        LoadFailed: the reference names no size.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    size = weights.reference.removeprefix("drawn:")
    if size not in VOCABULARY:
        raise LoadFailed(f"{weights.reference}: draw one of {', '.join(VOCABULARY)}")
    tokenizer = train_tokenizer()
    shapes, vocabulary = (FULL, VOCABULARY["full"]) if size == "full" else (TINY, VOCABULARY["tiny"])
    made = makers(shapes, tokenizer, vocabulary=vocabulary)
    parts = {name: filled(hollow(make), dtype, weights.path.name) for name, make in made.items()}
    parts["text_encoder"].tie_weights()
    return {**parts, "tokenizer": tokenizer, "scheduler": FlowMatchEulerDiscreteScheduler(**SCHEDULER)}
