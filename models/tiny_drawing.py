"""Random weights whose bits are the same on every machine.

They are drawn as integers (exact everywhere, unlike the vectorised normal distribution) and scaled by powers of two; what
torch initialises to a constant (norms, biases) is kept.
"""

from __future__ import annotations

import math
from typing import Any


def drawn(module: Any, *, seed: int) -> Any:
    """`module` with every parameter that is not constant drawn anew, its variance near 1 / fan-in."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            if bool((parameter == parameter.flatten()[0]).all()):
                continue
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 16 * parameter.numel()
            exponent = round(math.log2(math.sqrt(3 / fan_in)))
            drawn = torch.randint(-(2**15), 2**15, parameter.shape, generator=generator)
            parameter.copy_(drawn.float() * 2.0 ** (exponent - 15))
    return module
