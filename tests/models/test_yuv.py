"""Planar YUV against PyAV's own conversion, and there and back."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch

from models.yuv import from_i420, to_i420


def smooth(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack((x, y, (x + y) / 2))[None]


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((0, 0, 0), (16, 128, 128)),
        ((1, 1, 1), (235, 128, 128)),
        ((1, 0, 0), (63, 102, 240)),
        ((0, 1, 0), (173, 42, 26)),
        ((0, 0, 1), (32, 240, 118)),
    ],
    ids=["black", "white", "red", "green", "blue"],
)
def test_the_corners_of_bt_709(colour: tuple[float, ...], expected: tuple[int, int, int]) -> None:
    frame = to_i420(torch.tensor(colour).float().reshape(1, 3, 1, 1).expand(2, 3, 4, 6))
    assert frame.shape == (2, 6, 6)
    assert frame.dtype == torch.uint8
    planes = frame[1].flatten().tolist()
    assert planes == [expected[0]] * 24 + [expected[1]] * 6 + [expected[2]] * 6


def test_it_is_what_swscale_makes() -> None:
    rgb = smooth(64, 96)
    frame = av.VideoFrame.from_ndarray((rgb[0].permute(1, 2, 0) * 255).round().byte().numpy(), format="rgb24")
    theirs = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG").to_ndarray()
    assert np.abs(to_i420(rgb)[0].numpy().astype(int) - theirs.astype(int)).max() <= 2


def test_there_and_back() -> None:
    rgb = smooth(64, 96)
    assert (from_i420(to_i420(rgb)) - rgb).abs().max() < 0.025
