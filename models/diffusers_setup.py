"""What every pipeline of diffusers is put on its device with: quantised layers, a streamed text encoder, an attention."""

from __future__ import annotations

import importlib.util
from typing import Any

from core.log import logger
from models.base import LoadFailed
from models.diffusers_options import DiffusersOptions
from models.runtime import is_cpu

log = logger(__name__)

_SDPA = "native"
_FLASH3 = "_flash_3_hub"
_BACKENDS = {"sdpa": _SDPA, "flash3": "_flash_3", "flash3-hub": _FLASH3}
_HOPPER = (9, 0)
_FP8_FROM = (8, 9)


def require(options: DiffusersOptions, device: str) -> None:
    """Check that the quantisation asked for can be had.

    Raises:
        LoadFailed: the device cannot do it, or torchao is not installed.
    """
    import torch

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


def require_peft(option: str) -> None:
    """Check that a LoRA can be read, which `option` asks for.

    Raises:
        LoadFailed: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise LoadFailed(f"{option} needs the package peft; install killatamata[models].")


def settle(pipeline: Any, options: DiffusersOptions, device: str, modules: tuple[str, ...], kept: str) -> str:
    """Put the transformer, the text encoder and the other `modules` on `device`; returns the attention's name.

    The order matters: layers go to the device as they are quantised (so that the unquantised model never has to fit
    there), hooks come after it, compilation last. Linear layers with `kept` in their name are not quantised.

    Raises:
        LoadFailed: an option cannot be had here; the message says what is missing.
    """
    if options.quantization != "none":
        _quantise(pipeline.transformer, options.quantization, device, kept)
    for name in ("transformer", *modules):
        getattr(pipeline, name).to(device)
    if options.text_encoder == "offload":
        _offload(pipeline.text_encoder, device)
    else:
        pipeline.text_encoder.to(device)
    attention = _attend(pipeline.transformer, options, device)
    if options.compile:
        # Prompts have any length and canvases many sizes: with static shapes each would compile anew, in a paid job.
        pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True)
    return attention


def _quantise(transformer: Any, kind: str, device: str, kept: str) -> None:
    from torch import nn
    from torchao import quantization

    config = {
        "fp8": "Float8DynamicActivationFloat8WeightConfig",
        "fp8-weight-only": "Float8WeightOnlyConfig",
        "int8-weight-only": "Int8WeightOnlyConfig",
    }[kind]

    def in_a_block(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and name.startswith("transformer_blocks.") and kept not in name

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


def _attend(transformer: Any, options: DiffusersOptions, device: str) -> str:
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
