"""From a folder of weights to a Qwen-Image pipeline on its device, with everything that its options ask for."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

from core.log import logger
from models.base import LoadFailed
from models.qwen_options import LONG_STEPS, LORA, Cache, Distillation, QwenOptions
from models.runtime import is_cpu

if TYPE_CHECKING:
    from models.weights import Weights

log = logger(__name__)

_SDPA = "native"
_FLASH3 = "_flash_3_hub"
_BACKENDS = {"sdpa": _SDPA, "flash3": "_flash_3", "flash3-hub": _FLASH3}
_HOPPER = (9, 0)
_FP8_FROM = (8, 9)
_DISTILLED_SHIFT = math.log(3)
"""Shift 3 at every size, and no terminal shift: the schedule that Qwen-Image-Lightning was distilled with
(ModelTC/Qwen-Image-Lightning, generate_with_diffusers.py)."""


def prepare(pipeline: Any, options: QwenOptions, weights: Weights, device: str) -> dict[str, Any]:
    """Put `pipeline`, just read into host memory, on `device` as `options` say; returns what was chosen, as JSON.

    The order matters: a LoRA is fused before its layers are quantised, layers go to the device as they are quantised (so
    that the unquantised model never has to fit there), hooks come after both, compilation last.

    Raises:
        LoadFailed: an option cannot be had here; the message says what is missing.
    """
    _require(options, device)
    if options.distillation is not None:
        _distil(pipeline, options.distillation, weights.additions[LORA])
    if options.quantization != "none":
        _quantise(pipeline.transformer, options.quantization, device)
    pipeline.transformer.to(device)
    pipeline.vae.to(device)
    if options.text_encoder == "offload":
        _offload(pipeline.text_encoder, device)
    else:
        pipeline.text_encoder.to(device)
    attention = _attend(pipeline.transformer, options, device)
    if options.compile:
        # Prompts have any length and pictures many sizes: with static shapes each would compile anew, in a paid job.
        pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True)
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


def _require(options: QwenOptions, device: str) -> None:
    import torch

    if options.distillation is not None and importlib.util.find_spec("peft") is None:
        raise LoadFailed("distillation needs the package peft; install killatamata[models].")
    if options.quantization.startswith("fp8"):
        if is_cpu(device):
            raise LoadFailed(f"quantization: {options.quantization} needs a GPU; on the CPU leave it out.")
        capability = torch.cuda.get_device_capability(device)
        if capability < _FP8_FROM:
            raise LoadFailed(
                f"quantization: {options.quantization} needs a GPU of compute capability 8.9 (Ada, Hopper) or newer; "
                f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}."
            )
    if options.quantization != "none" and importlib.util.find_spec("torchao") is None:
        raise LoadFailed(f"quantization: {options.quantization} needs the package torchao; install killatamata[gpu].")


def _distil(pipeline: Any, distillation: Distillation, lora: Weights) -> None:
    pipeline.load_lora_weights(str(lora.path.parent), weight_name=lora.path.name)
    if not pipeline.get_list_adapters().get("transformer"):
        raise LoadFailed(f"{lora.reference}: its file {lora.path.name} holds no LoRA for this transformer.")
    pipeline.fuse_lora(components=["transformer"], lora_scale=distillation.strength)
    pipeline.unload_lora_weights()
    pipeline.scheduler = type(pipeline.scheduler).from_config(
        pipeline.scheduler.config, base_shift=_DISTILLED_SHIFT, max_shift=_DISTILLED_SHIFT, shift_terminal=None
    )


def _quantise(transformer: Any, kind: str, device: str) -> None:
    from torch import nn
    from torchao import quantization

    config = {
        "fp8": "Float8DynamicActivationFloat8WeightConfig",
        "fp8-weight-only": "Float8WeightOnlyConfig",
        "int8-weight-only": "Int8WeightOnlyConfig",
    }[kind]

    def in_a_block(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and name.startswith("transformer_blocks.") and "_mod." not in name

    quantization.quantize_(transformer, getattr(quantization, config)(), filter_fn=in_a_block, device=device)


def _offload(text_encoder: Any, device: str) -> None:
    import torch
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(
        text_encoder,
        onload_device=torch.device(device),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=not is_cpu(device),
    )


def _attend(transformer: Any, options: QwenOptions, device: str) -> str:
    import torch

    backend = _BACKENDS.get(options.attention, _FLASH3)
    if options.attention == "auto":
        hopper = not is_cpu(device) and torch.cuda.get_device_capability(device) == _HOPPER
        if not hopper or importlib.util.find_spec("kernels") is None:
            return _SDPA
    if is_cpu(device) and backend != _SDPA:
        raise LoadFailed(f"attention: {options.attention} needs a Hopper GPU; leave it at auto.")
    try:
        transformer.set_attention_backend(backend)
    except Exception as error:
        # A missing package, a hub out of reach, a kernel that was not built for this torch: each has its own class.
        if options.attention == "auto":
            log.warning("FlashAttention 3 cannot be had, PyTorch's attention is used", error=repr(error))
            return _SDPA
        raise LoadFailed(
            f"attention: {options.attention} cannot be had here ({error}); install killatamata[gpu] and reach the hub "
            "once, or set attention: auto."
        ) from error
    return backend
