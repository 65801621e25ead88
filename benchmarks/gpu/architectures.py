"""Qwen-Image and Qwen-Image-Edit with random weights, drawn where they will run: full size without a download."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from models.base import LoadFailed
from models.qwen_image import QwenImage
from models.qwen_image_edit import QwenImageEdit, processor_of
from models.tiny_qwen_image import EDIT_TEMPLATE, SCHEDULER, TEMPLATE, train_tokenizer
from models.weights import Weights

Size = Literal["full", "tiny"]

SHAPES: dict[Size, dict[str, Any]] = {
    # The config.json files of Qwen/Qwen-Image, as diffusers and transformers default to them.
    "full": {
        "transformer": {"num_layers": 60},
        "vae": {},
        "text": {
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152_064,
            "rope_parameters": {"mrope_section": [16, 24, 24], "rope_type": "default", "rope_theta": 1_000_000.0},
        },
        "vision": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
        },
    },
    "tiny": {
        "transformer": {
            "num_layers": 2,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "axes_dims_rope": (8, 12, 12),
        },
        "vae": {"base_dim": 8, "num_res_blocks": 1},
        "text": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 1024,
            "rope_parameters": {"mrope_section": [2, 3, 3], "rope_type": "default", "rope_theta": 1_000_000.0},
        },
        "vision": {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32},
    },
}


class DrawnQwenImage(QwenImage):
    """The engine as it is, around a pipeline that was drawn instead of read. `weights.reference` is `drawn:<size>`."""

    def _read(self, weights: Weights, dtype: Any) -> Any:
        from diffusers import QwenImagePipeline

        return QwenImagePipeline(**drawn(_size(weights), train_tokenizer(TEMPLATE), dtype, weights.path.name))


class DrawnQwenImageEdit(QwenImageEdit):
    """As `DrawnQwenImage`, for the edit engine."""

    def _read(self, weights: Weights, dtype: Any) -> Any:
        from diffusers import QwenImageEditPlusPipeline
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        tokenizer = train_tokenizer(EDIT_TEMPLATE, 1024)
        parts = drawn(_size(weights), tokenizer, dtype, weights.path.name, {"zero_cond_t": True})
        return QwenImageEditPlusPipeline(processor=processor_of(Qwen2VLImageProcessorPil(), tokenizer), **parts)


def drawn(
    size: Size, tokenizer: Any, dtype: Any, device: str, transformer: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The parts of a pipeline, their parameters random and on `device`."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    shapes = SHAPES[size]
    kinds = {
        "transformer": lambda: QwenImageTransformer2DModel(**shapes["transformer"], **(transformer or {})),
        "text_encoder": lambda: Qwen2_5_VLForConditionalGeneration(_text_config(shapes, tokenizer)),
        "vae": lambda: AutoencoderKLQwenImage(**shapes["vae"]),
    }
    modules = {name: filled(hollow(make), dtype, device) for name, make in kinds.items()}
    return {**modules, "tokenizer": tokenizer, "scheduler": FlowMatchEulerDiscreteScheduler(**SCHEDULER)}


def hollow(make: Any) -> Any:
    """What `make` makes, with parameters that have a shape and no memory."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return make()


def filled(module: Any, dtype: Any, device: str) -> Any:
    """`module` with random parameters on `device`."""
    import torch

    for parent in module.modules():
        for name, parameter in list(parent.named_parameters(recurse=False)):
            made = torch.empty(parameter.shape, dtype=dtype, device=device)
            if parameter.ndim > 1:
                bound = math.sqrt(3 / parameter[0].numel())
                made.uniform_(-bound, bound)
            else:
                made.fill_(0.0 if name == "bias" else 1.0)
            parent.register_parameter(name, torch.nn.Parameter(made, requires_grad=False))
    return module.eval()


def _text_config(shapes: dict[str, Any], tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig

    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return Qwen2_5_VLConfig(
        text_config={**json.loads(json.dumps(shapes["text"])), **special},
        vision_config=dict(shapes["vision"]),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )


def _size(weights: Weights) -> Size:
    size = weights.reference.removeprefix("drawn:")
    if size not in SHAPES:
        raise LoadFailed(f"{weights.reference}: draw one of {', '.join(SHAPES)}")
    return "full" if size == "full" else "tiny"
