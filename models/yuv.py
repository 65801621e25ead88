"""Frames between a model's RGB and the planar YUV that files hold: BT.709, limited range, on the device of the tensor.

Y' = 0.2126 R' + 0.7152 G' + 0.0722 B', scaled to 16…235; Cb and Cr to 16…240 (ITU-R BT.709-6, items 3.2 to 3.4 and 4.6).
"""

from __future__ import annotations

from typing import Any

_RED, _BLUE = 0.2126, 0.0722
_GREEN = 1 - _RED - _BLUE


def to_i420(rgb: Any) -> Any:
    """Frames as I420: uint8 (n, height * 3 / 2, width), of `rgb` in 0…1, shape (n, 3, height, width), both sides even.

    A chroma sample is the mean of its four pixels.
    """
    import torch

    n, _, height, width = rgb.shape
    red, green, blue = rgb.float().clamp(0, 1).unbind(1)
    luma = _RED * red + _GREEN * green + _BLUE * blue
    chroma = torch.stack(((blue - luma) / (2 * (1 - _BLUE)), (red - luma) / (2 * (1 - _RED))), 1)
    chroma = torch.nn.functional.avg_pool2d(chroma, 2) * 224 + 128
    planes = torch.cat(((luma * 219 + 16).reshape(n, -1), chroma.reshape(n, -1)), 1)
    return planes.round_().clamp_(0, 255).to(torch.uint8).reshape(n, height * 3 // 2, width)


def from_i420(frames: Any) -> Any:
    """`frames` as float32 RGB in 0…1, shape (n, 3, height, width), of uint8 I420 (n, height * 3 / 2, width)."""
    import torch

    n, rows, width = frames.shape
    height = rows * 2 // 3
    planes = frames.reshape(n, -1).float()
    luma = (planes[:, : height * width].reshape(n, height, width) - 16) / 219
    chroma = (planes[:, height * width :].reshape(n, 2, height // 2, width // 2) - 128) / 224
    # Not `nearest`: the means that to_i420 took lie between the pixels.
    chroma = torch.nn.functional.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    blue_less, red_less = chroma.unbind(1)
    red = luma + 2 * (1 - _RED) * red_less
    blue = luma + 2 * (1 - _BLUE) * blue_less
    green = (luma - _RED * red - _BLUE * blue) / _GREEN
    return torch.stack((red, green, blue), 1).clamp_(0, 1)
