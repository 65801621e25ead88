"""Tiny random weights for LTX-2.3 with production's geometry: a VAE of 32x32x8 pixels a latent, stereo sound at 48 kHz."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from models.tiny_drawing import drawn

SCHEDULER = {
    "base_image_seq_len": 1024,
    "base_shift": 0.95,
    "max_image_seq_len": 4096,
    "max_shift": 2.05,
    "shift_terminal": 0.1,
    "use_dynamic_shifting": True,
}
"""The scheduler configuration of LTX-2.3, as diffusers converts it."""

_WIDTH = 32
_LATENT_CHANNELS = 16
_MEL_BINS = 16
_LAYERS = 2

LTX_2_3: dict[str, dict[str, Any]] = {
    "transformer": {
        "gated_attn": True,
        "cross_attn_mod": True,
        "audio_gated_attn": True,
        "audio_cross_attn_mod": True,
        "rope_type": "split",
        "use_prompt_embeddings": False,
        "perturbed_attn": True,
    },
    "connectors": {
        "video_gated_attn": True,
        "audio_gated_attn": True,
        "rope_type": "split",
        "per_modality_projections": True,
        "proj_bias": True,
    },
    "vae": {
        "decoder_spatio_temporal_scaling": (True,) * 4,
        "decoder_inject_noise": (False,) * 5,
        "decoder_causal": False,
        "decoder_spatial_padding_mode": "zeros",
        "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
        "upsample_residual": (False,) * 4,
        "upsample_factor": (2, 2, 1, 2),
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
    },
    "audio_vae": {},
    "vocoder": {},
    "latent_upsampler": {"use_rational_resampler": False},
}
"""What sets each part of 2.3 apart from diffusers' defaults, which are those of 2.0, whatever its size."""

TINY: dict[str, dict[str, Any]] = {
    "transformer": {
        "in_channels": _LATENT_CHANNELS,
        "out_channels": _LATENT_CHANNELS,
        "num_attention_heads": 2,
        "attention_head_dim": _WIDTH // 2,
        "cross_attention_dim": _WIDTH,
        "audio_in_channels": 8,
        "audio_out_channels": 8,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": _WIDTH // 4,
        "audio_cross_attention_dim": _WIDTH // 2,
        "num_layers": _LAYERS,
        "caption_channels": _WIDTH,
        "rope_double_precision": False,
    },
    "connectors": {
        "caption_channels": _WIDTH,
        "text_proj_in_factor": _LAYERS + 1,
        "video_connector_num_attention_heads": 2,
        "video_connector_attention_head_dim": _WIDTH // 2,
        "video_connector_num_layers": 1,
        "video_connector_num_learnable_registers": None,
        "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": _WIDTH // 4,
        "audio_connector_num_layers": 1,
        "audio_connector_num_learnable_registers": None,
        "connector_rope_base_seq_len": 32,
        "rope_double_precision": False,
        "video_hidden_dim": _WIDTH,
        "audio_hidden_dim": _WIDTH // 2,
    },
    "vae": {
        "latent_channels": _LATENT_CHANNELS,
        "block_out_channels": (8, 16, 32, 32),
        "decoder_block_out_channels": (8, 16, 16, 32),
        "layers_per_block": (1,) * 5,
        "decoder_layers_per_block": (1,) * 5,
    },
    "audio_vae": {
        "base_channels": 8,
        "ch_mult": (1, 1, 1),
        "num_res_blocks": 1,
        "latent_channels": 2,
        "mel_bins": _MEL_BINS,
        "resolution": 64,
    },
    "vocoder": {
        "in_channels": 2 * _MEL_BINS,
        "hidden_channels": 64,
        "bwe_in_channels": 2 * _MEL_BINS,
        "bwe_hidden_channels": 32,
        "num_mel_channels": _MEL_BINS,
    },
    "latent_upsampler": {"in_channels": _LATENT_CHANNELS, "mid_channels": 32, "num_blocks_per_stage": 1},
    "text": {
        "hidden_size": _WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "sliding_window": 64,
    },
    "vision": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
}
"""Two layers of everything."""

_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
_TURNS = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>")
_SCHOOLING = (
    "the camera moves slowly while a red fox walks through the snow and a robot dances to music played by the sea; ",
    "say which colours, forms and sounds are in the scene, where things stand, and what happens one after another. ",
    string.printable,
)


def build(folder: Path) -> None:
    """Write a pipeline that `LTX2ConditionPipeline.from_pretrained` loads, and its upsampler, into the empty `folder`."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LTX2ConditionPipeline

    from models.runtime import silence_progress_bars

    silence_progress_bars()
    tokenizer = train_tokenizer()
    made = makers(TINY, tokenizer, vocabulary=len(tokenizer))
    parts = {name: drawn(make(), seed=seed) for seed, (name, make) in enumerate(made.items(), 1)}
    upsampler = parts.pop("latent_upsampler")
    _quieten(parts["vocoder"])
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    pipeline = LTX2ConditionPipeline(**parts, tokenizer=tokenizer, scheduler=scheduler, audio_scheduler=None)
    pipeline.save_pretrained(folder, safe_serialization=True)
    upsampler.save_pretrained(folder / "latent_upsampler", safe_serialization=True)


def build_lora(folder: Path) -> None:
    """Write a LoRA of rank 4 for the transformer of `build` into the empty `folder`, as `lora.safetensors`."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(4)
    matrices: dict[str, Any] = {}
    for block in range(_LAYERS):
        for layer in ("to_q", "to_k", "to_v"):
            for name, shape in (("lora_A", (4, _WIDTH)), ("lora_B", (_WIDTH, 4))):
                weight = torch.randint(-(2**15), 2**15, shape, generator=generator).float() * 2.0**-15
                matrices[f"transformer.transformer_blocks.{block}.attn1.{layer}.{name}.weight"] = weight
    save_file(matrices, folder / "lora.safetensors")


def train_tokenizer(size: int = 640) -> Any:
    """A `GemmaTokenizer` with bytes to fall back to, laid out as the real one: padding 0, end 1, beginning 2."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import GemmaTokenizer

    trained = Tokenizer(models.BPE(unk_token=_SPECIAL[3], byte_fallback=True))
    trained.train_from_iterator(
        [text.replace(" ", "\u2581") for text in _SCHOOLING],
        trainers.BpeTrainer(
            vocab_size=size,
            show_progress=False,
            special_tokens=[*_SPECIAL, *_TURNS, *(f"<0x{byte:02X}>" for byte in range(256))],
        ),
    )
    model = json.loads(trained.to_str())["model"]
    tokenizer = GemmaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    tokenizer.add_special_tokens({"additional_special_tokens": list(_TURNS)})
    tokenizer.model_max_length = 8192
    return tokenizer


def makers(shapes: dict[str, dict[str, Any]], tokenizer: Any, *, vocabulary: int) -> dict[str, Callable[[], Any]]:
    """What makes each part of an LTX-2.3 of these `shapes`, its parameters as torch initialises them."""
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2 import LTX2TextConnectors
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
    from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE

    kinds = {
        "transformer": LTX2VideoTransformer3DModel,
        "connectors": LTX2TextConnectors,
        "vae": AutoencoderKLLTX2Video,
        "audio_vae": AutoencoderKLLTX2Audio,
        "vocoder": LTX2VocoderWithBWE,
        "latent_upsampler": LTX2LatentUpsamplerModel,
    }
    made: dict[str, Callable[[], Any]] = {
        name: partial(kind, **shapes[name], **LTX_2_3[name]) for name, kind in kinds.items()
    }
    return {**made, "text_encoder": partial(_text_encoder, shapes, tokenizer, vocabulary)}


def _quieten(vocoder: Any) -> None:
    """Its random weights are 200 times full scale loud; with these it is about -20 dB."""
    import torch

    with torch.no_grad():
        for part in (vocoder.vocoder, vocoder.bwe_generator):
            part.conv_out.weight *= 2.0**-10


def _text_encoder(shapes: dict[str, dict[str, Any]], tokenizer: Any, vocabulary: int) -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    config = Gemma3Config(
        text_config={**shapes["text"], "vocab_size": vocabulary},
        vision_config=dict(shapes["vision"]),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )
    return Gemma3ForConditionalGeneration(config).eval()
