"""A small picture of latents on their way, by a linear map instead of the VAE."""

from __future__ import annotations

from typing import Any

from models.previews import as_webp

# Red, green and blue of each of the 16 normalised latent channels, and their bias: a fit for the VAE that Qwen-Image shares
# with Wan 2.1 (ComfyUI, comfy/latent_formats.py, Wan21).
_FACTORS = (
    (-0.1299, -0.1692, 0.2932),
    (0.0671, 0.0406, 0.0442),
    (0.3568, 0.2548, 0.1747),
    (0.0372, 0.2344, 0.1420),
    (0.0313, 0.0189, -0.0328),
    (0.0296, -0.0956, -0.0665),
    (-0.3477, -0.4059, -0.2925),
    (0.0166, 0.1902, 0.1975),
    (-0.0412, 0.0267, -0.1364),
    (-0.1293, 0.0740, 0.1636),
    (0.0680, 0.3019, 0.1128),
    (0.0032, 0.0581, 0.0639),
    (-0.1251, 0.0927, 0.1699),
    (0.0060, -0.0633, 0.0005),
    (0.3477, 0.2275, 0.2950),
    (0.1984, 0.0913, 0.1861),
)
_BIAS = (-0.1835, -0.0868, -0.3360)


def preview(latents: Any, width: int, height: int) -> bytes:
    """A WebP of at most 192 pixels a side for packed `latents`, shape (1, height / 16 x width / 16, 64), of that canvas."""
    import torch

    rows, columns = height // 16, width // 16
    channels = (
        latents[0].float().cpu().view(rows, columns, 16, 2, 2).permute(0, 3, 1, 4, 2).reshape(rows * 2, columns * 2, 16)
    )
    return as_webp(channels @ torch.tensor(_FACTORS) + torch.tensor(_BIAS))
