"""Tiny random weights for Qwen-Image(-Edit) with production's geometry: 8x VAE, 16 latent channels, patches of 2x2."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from models.tiny_drawing import drawn

SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
"""The scheduler configuration of Qwen/Qwen-Image."""

TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""The pipeline's own prompt template; it drops the 34 tokens before `{}`."""

EDIT_TEMPLATE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, background), "
    "then explain how the user's text instruction should alter or modify the image. Generate a new image that meets the "
    "user's requirements while maintaining consistency with the original input where appropriate.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""The edit pipeline's own; it drops the 64 tokens before `{}`."""

_LAYERS = 2
_WIDTH = 64

_SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>"),
    "<|video_pad|>",
)


def build(folder: Path) -> None:
    """Write a pipeline that `QwenImagePipeline.from_pretrained` loads into the empty `folder`, about 5 MB."""
    from diffusers import QwenImagePipeline

    QwenImagePipeline(**_components(train_tokenizer(), {})).save_pretrained(folder, safe_serialization=True)


def build_edit(folder: Path) -> None:
    """Write what `QwenImageEditPlusPipeline` loads into the empty `folder`, laid out as Qwen/Qwen-Image-Edit-2511.

    As there, the transformer gives the pictures it is conditioned on the timestep zero.
    """
    from diffusers import QwenImagePipeline
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = train_tokenizer(EDIT_TEMPLATE, 1024)
    pipeline = QwenImagePipeline(**_components(tokenizer, {"zero_cond_t": True}))
    pipeline.save_pretrained(folder, safe_serialization=True)
    Qwen2VLImageProcessorPil().save_pretrained(folder / "processor")
    tokenizer.save_pretrained(folder / "processor")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "QwenImageEditPlusPipeline", "processor": ["transformers", "Qwen2VLProcessor"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def build_lora(folder: Path) -> None:
    """Write a LoRA of rank 4 for the transformer of `build` into the empty `folder`, as `lora.safetensors`."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(4)
    matrices: dict[str, Any] = {}
    for block in range(_LAYERS):
        for layer in ("to_q", "to_k", "to_v"):
            for name, shape in (("lora_A", (4, _WIDTH)), ("lora_B", (_WIDTH, 4))):
                weight = torch.randint(-(2**15), 2**15, shape, generator=generator).float() * 2.0**-17
                matrices[f"transformer.transformer_blocks.{block}.attn.{layer}.{name}.weight"] = weight
    save_file(matrices, folder / "lora.safetensors")


def _components(tokenizer: Any, transformer: dict[str, Any]) -> dict[str, Any]:
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel

    from models.runtime import silence_progress_bars

    silence_progress_bars()
    return {
        "tokenizer": tokenizer,
        "text_encoder": drawn(_text_encoder(tokenizer), seed=1),
        "transformer": drawn(
            QwenImageTransformer2DModel(
                patch_size=2,
                in_channels=64,
                out_channels=16,
                num_layers=_LAYERS,
                attention_head_dim=32,
                num_attention_heads=_WIDTH // 32,
                joint_attention_dim=32,
                guidance_embeds=False,
                axes_dims_rope=(8, 12, 12),
                **transformer,
            ),
            seed=2,
        ),
        "vae": drawn(
            AutoencoderKLQwenImage(
                base_dim=8,
                z_dim=16,
                dim_mult=[1, 2, 4, 4],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
            ),
            seed=3,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(**SCHEDULER),
    }


def train_tokenizer(template: str = TEMPLATE, size: int = 512) -> Any:
    """A `Qwen2Tokenizer` over bytes in which every word of `template` is one token, as in the real vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    split = Qwen2Tokenizer().backend_tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = split.normalizer, split.pre_tokenizer
    trained.train_from_iterator(
        re.split(r"<\|\w+\|>|\{\}", template),
        trainers.BpeTrainer(
            vocab_size=size, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
        ),
    )
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": list(_SPECIAL)})
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = 131_072
    return tokenizer


def _text_encoder(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 4096,
        "rope_parameters": {"mrope_section": [2, 3, 3], "rope_type": "default", "rope_theta": 1_000_000.0},
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()
