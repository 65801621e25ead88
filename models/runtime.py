"""What every torch engine asks of its runtime: the device, the number format, silence, and faults with a name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from models.base import DeviceLost, LoadFailed, OutOfMemory


def is_cpu(device: str) -> bool:
    """Whether `device` is the host's own processor."""
    import torch

    return bool(torch.device(device).type == "cpu")


def dtype_for(device: str, wanted: str = "auto") -> Any:
    """The torch dtype to load weights in: what is `wanted`; `auto` is float32 on the CPU, bfloat16 on an accelerator.

    Raises:
        LoadFailed: `device` is no device name, or names a device that is not there.
    """
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LoadFailed(
            f"The device {device!r} cannot be used; name one that is there, such as cpu: {error}"
        ) from error
    if wanted != "auto":
        return getattr(torch, wanted)
    return torch.float32 if is_cpu(device) else torch.bfloat16


def limit_memory(device: str, gibibytes: float) -> None:
    """Let this process take at most so much of an accelerator's memory, so that its neighbours on the card keep theirs.

    Raises:
        LoadFailed: the device is not there, or has less.
    """
    import torch

    dtype_for(device)
    if is_cpu(device):
        return
    total = torch.cuda.get_device_properties(device).total_memory
    share = gibibytes * 2**30 / total
    if share > 1:
        raise LoadFailed(f"vramGiB: {gibibytes:g} is declared, and {device} has {total / 2**30:.1f}.")
    torch.cuda.set_per_process_memory_fraction(share, device)


def silence_progress_bars() -> None:
    """Keep the model libraries' progress bars off stderr, in this process."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


@contextmanager
def named_faults(work: str) -> Iterator[None]:
    """Turn the errors of torch that end a process's usefulness into faults; `work` says what was being done.

    Raises:
        OutOfMemory: the device or the host has no memory left.
        DeviceLost: the accelerator reported an error.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(f"Out of memory: {work}: {error}") from error
    except torch.AcceleratorError as error:
        raise DeviceLost(f"The accelerator failed: {work}: {error}") from error
    except RuntimeError as error:
        # torch has no class of its own for the host allocator's refusal
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemory(f"Out of memory: {work}: {error}") from error
