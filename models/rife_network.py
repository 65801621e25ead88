"""The network of RIFE 4.25: two frames and a time become the frame between them. Imports torch; `models.rife` does not.

IFNet (Huang et al., arXiv:2011.06294), in the form that Practical-RIFE calls 4.25: features of both frames, then five
blocks from coarse to fine, each of which corrects the flow by what the one before it left unexplained. An implementation
of our own, whose names are those of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

GRAIN = 64
"""Padded sides are multiples of this at scale 1: the coarsest block sees a 16th, and halves that twice."""

_WIDTHS = (192, 128, 96, 64, 32)
_SHRINK = (16, 8, 4, 2, 1)
_FEATURES = 4
_PIXELS = 3 + _FEATURES
_SLOPE = 0.2
_TRAINING_ONLY = ("teacher.", "caltime.")


def _convolution(inside: int, outside: int) -> Any:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, 2, 1), nn.LeakyReLU(_SLOPE, inplace=True))


class _Encoder(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.cnn0 = nn.Conv2d(3, 16, 3, 2, 1)
        self.cnn1 = nn.Conv2d(16, 16, 3, 1, 1)
        self.cnn2 = nn.Conv2d(16, 16, 3, 1, 1)
        self.cnn3 = nn.ConvTranspose2d(16, _FEATURES, 4, 2, 1)

    def forward(self, frames: Any) -> Any:
        for layer in (self.cnn0, self.cnn1, self.cnn2):
            frames = functional.leaky_relu_(layer(frames), _SLOPE)
        return self.cnn3(frames)


class _Residual(nn.Module):  # type: ignore[misc]
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.beta = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Any) -> Any:
        return functional.leaky_relu_(torch.addcmul(x, self.conv(x), self.beta), _SLOPE)


class _Block(nn.Module):  # type: ignore[misc]
    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_convolution(inside, width // 2), _convolution(width // 2, width))
        self.convblock = nn.Sequential(*(_Residual(width) for _ in range(8)))
        self.lastconv = nn.Sequential(nn.ConvTranspose2d(width, 4 * 13, 4, 2, 1), nn.PixelShuffle(2))

    def forward(self, x: Any) -> Any:
        """13 channels of the size of `x`: a correction of the flow, the mask's logit, and 8 for the next block."""
        return self.lastconv(self.convblock(self.conv0(x)))


class IFNet(nn.Module):  # type: ignore[misc]
    """Two frames and a time to the frame between them. Frames are RGB in 0…1, their sides multiples of `grain(scale)`."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = _Encoder()
        for index, width in enumerate(_WIDTHS):
            self.add_module(f"block{index}", _Block((2 * _PIXELS + 1) if index == 0 else 28, width))

    def prepare(self, frames: Any) -> Any:
        """`frames` (n, 3, height, width) and their features below them: (n, 7, height, width).

        It depends on nothing else, so that a frame between two others is prepared once.
        """
        return torch.cat((frames, self.encode(frames)), 1)

    def forward(self, first: Any, second: Any, times: Any, scale: float = 1.0) -> Any:
        """The frames at `times` (n) in 0…1 between two prepared ones (1, 7, height, width): (n, 3, height, width).

        `scale` below 1 looks for the flow in smaller pictures: quicker, and it finds larger movements.
        """
        count, (height, width) = times.shape[0], first.shape[2:]
        first, second = first.expand(count, -1, -1, -1), second.expand(count, -1, -1, -1)
        pixels = _identity(height, width, first.device)
        flow: Any = None
        handed: Any = None
        for index, shrink in enumerate(_SHRINK):
            every = round(shrink / scale)
            time = times.to(first.dtype).reshape(-1, 1, 1, 1).expand(-1, 1, height // every, width // every)
            if flow is None:
                one, two = _resized(first, 1 / every), _resized(second, 1 / every)
                parts = [one[:, :3], two[:, :3], one[:, 3:], two[:, 3:], time]
            else:
                moved, places = _centres(flow, every), _centres(pixels, every)
                one, two = (_mean(each, every) for each in _both_warped(first, second, moved, places))
                small = _mean(moved, every) / every
                parts = [one[:, :3], two[:, :3], one[:, 3:], two[:, 3:], time, handed, small.to(first.dtype)]
            x = torch.cat(parts, 1)
            del one, two, parts
            made = getattr(self, f"block{index}")(x)
            change = _resized(made[:, :4].float() * every, every)
            flow = change if flow is None else flow.add_(change)
            handed = _resized(made[:, 4:], 2) if index + 1 < len(_SHRINK) else _resized(made[:, 4:5], every)
            del x, made, change
        one, two = _both_warped(first[:, :3], second[:, :3], flow, pixels)
        return torch.lerp(two, one, torch.sigmoid(handed))


def grain(scale: float) -> int:
    """What the sides of frames must be multiples of at this `scale`."""
    return max(GRAIN, round(GRAIN / scale))


def read(path: Path, device: str, dtype: Any) -> IFNet:
    """The network with the weights of the file `path`, for inference. Runs no code of the file.

    Raises:
        OSError, RuntimeError, pickle.UnpicklingError, ValueError: the file is none of this network's weights.
    """
    stored = torch.load(path, map_location="cpu", weights_only=True)
    named = {str(name).removeprefix("module."): value for name, value in stored.items()}
    network = IFNet()
    network.load_state_dict({n: v for n, v in named.items() if not n.startswith(_TRAINING_ONLY)}, strict=True)
    network.eval().requires_grad_(False).to(device, dtype, memory_format=torch.channels_last)
    return network


def _resized(x: Any, factor: float) -> Any:
    if factor == 1:
        return x
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _centres(x: Any, every: int) -> Any:
    """Of each square of `every` pixels the four in the middle: all that remains of it when `x` is shrunk bilinearly.

    So frames that are shrunk after they were warped need be warped only there.
    """
    if every <= 2:
        return x
    middle = slice(every // 2 - 1, every // 2 + 1)
    x = x.unflatten(3, (-1, every))[..., middle].flatten(3)
    return x.unflatten(2, (-1, every))[:, :, :, middle].flatten(2, 3)


def _mean(centres: Any, every: int) -> Any:
    """The shrunk picture of its `_centres`."""
    return centres if every == 1 else functional.avg_pool2d(centres, 2)


def _identity(height: int, width: int, device: Any) -> Any:
    """Where each pixel lies, in grid_sample's -1…1, across and down: float32 (1, 2, height, width)."""
    rows = torch.linspace(-1, 1, height, device=device)
    columns = torch.linspace(-1, 1, width, device=device)
    down, across = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((across, down))[None]


def _both_warped(first: Any, second: Any, flow: Any, places: Any) -> tuple[Any, Any]:
    """Both frames as seen from `places` (1, 2, height, width) through their half of `flow` (n, 4, height, width), in pixels.

    Positions are float32 always: float16 cannot tell a thousand pixels apart.
    """
    height, width = first.shape[2:]
    reach = torch.tensor((2 / (width - 1), 2 / (height - 1)), device=first.device).reshape(1, 2, 1, 1)
    return _seen(first, places + flow[:, :2] * reach), _seen(second, places + flow[:, 2:] * reach)


def _seen(frames: Any, places: Any) -> Any:
    grid = places.permute(0, 2, 3, 1)
    seen = functional.grid_sample(frames.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return seen.to(frames.dtype)
