"""From a folder of weights to a Qwen-Image pipeline on its device, with everything that its options ask for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from models.base import LoadFailed
from models.diffusers_setup import require, require_peft, settle
from models.qwen_options import LONG_STEPS, LORA, Cache, Distillation, QwenOptions

if TYPE_CHECKING:
    from models.weights import Weights

_DISTILLED_SHIFT = math.log(3)
"""Shift 3 at every size, and no terminal shift: the schedule that Qwen-Image-Lightning was distilled with
(ModelTC/Qwen-Image-Lightning, generate_with_diffusers.py)."""


def prepare(pipeline: Any, options: QwenOptions, weights: Weights, device: str) -> dict[str, Any]:
    """Put `pipeline`, just read into host memory, on `device` as `options` say; returns what was chosen, as JSON.

    A LoRA is fused before its layers are quantised.

    Raises:
        LoadFailed: an option cannot be had here; the message says what is missing.
    """
    require(options, device)
    if options.distillation is not None:
        require_peft("distillation")
        _distil(pipeline, options.distillation, weights.additions[LORA])
    attention = settle(pipeline, options, device, ("vae",), kept="_mod.")
    return {
        "attention": attention,
        "compiled": options.compile,
        "quantization": options.quantization,
        "distilled": options.distillation is not None,
    }


def cache_for(transformer: Any, cache: Cache | None, steps: int) -> str | None:
    """Switch the step cache on or off for a run of `steps` steps and forget the last run's state; returns its method.

    A run that was stopped leaves its state behind, and the pipeline itself forgets only what it finished.
    """
    from diffusers import FirstBlockCacheConfig
    from diffusers.hooks import TaylorSeerCacheConfig

    wanted = cache is not None and steps >= LONG_STEPS
    if cache is not None and wanted and not transformer.is_cache_enabled:
        transformer.enable_cache(
            FirstBlockCacheConfig(threshold=cache.threshold)
            if cache.method == "first-block"
            else TaylorSeerCacheConfig(cache_interval=cache.interval, taylor_factors_dtype=transformer.dtype)
        )
    elif not wanted and transformer.is_cache_enabled:
        transformer.disable_cache()
    if wanted:
        transformer._reset_stateful_cache()
    return cache.method if cache is not None and wanted else None


def _distil(pipeline: Any, distillation: Distillation, lora: Weights) -> None:
    pipeline.load_lora_weights(str(lora.path.parent), weight_name=lora.path.name)
    if not pipeline.get_list_adapters().get("transformer"):
        raise LoadFailed(f"{lora.reference}: its file {lora.path.name} holds no LoRA for this transformer.")
    pipeline.fuse_lora(components=["transformer"], lora_scale=distillation.strength)
    pipeline.unload_lora_weights()
    pipeline.scheduler = type(pipeline.scheduler).from_config(
        pipeline.scheduler.config, base_shift=_DISTILLED_SHIFT, max_shift=_DISTILLED_SHIFT, shift_terminal=None
    )
