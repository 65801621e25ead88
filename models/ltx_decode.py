"""The video VAE's decoder, frame by frame: what `vae.decode` gives, without ever holding more than a few frames.

The decoder mixes frames only in its convolutions over three frames each. Here each layer is a generator that takes chunks of
frames and keeps the last two for the next, so that nothing is computed twice and nothing is blended: the frames are those of
the whole decode, up to the order in which a kernel sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

Chunks = Iterator[torch.Tensor]
"""Tensors of shape (1, channels, frames, height, width), in order."""


@torch.no_grad()  # type: ignore[untyped-decorator]
def decoded(vae: Any, latents: torch.Tensor, at_once: int) -> Chunks:
    """RGB in 0…1 of `latents` (denormalised; 1, channels, n, height, width), in chunks of 1 to 8 × `at_once` frames.

    Together they are 8 × (n - 1) + 1 frames. `fits` must hold for `vae`.
    """
    decoder = vae.decoder
    causal = bool(decoder.is_causal)
    chunks: Chunks = (part.to(vae.dtype) for part in latents.split(at_once, 2))
    chunks = _convolved(decoder.conv_in, chunks, causal)
    for block in decoder.mid_block.resnets:
        chunks = _residual(block, chunks, causal)
    for up in decoder.up_blocks:
        if up.conv_in is not None:
            chunks = _residual(up.conv_in, chunks, causal)
        for upsampler in up.upsamplers or ():
            chunks = _upsampled(upsampler, chunks, causal)
        for block in up.resnets:
            chunks = _residual(block, chunks, causal)
    activated = (decoder.conv_act(decoder.norm_out(chunk)) for chunk in chunks)
    for chunk in _convolved(decoder.conv_out, activated, causal):
        yield (_unfolded(chunk, decoder.patch_size_t, decoder.patch_size, flipped=True).float() + 1) / 2


def fits(vae: Any) -> bool:
    """Whether `vae` is one that `decoded` knows: no timestep, no noise of its own, no sides but convolutions of 3 frames."""
    config = vae.config
    return not config.timestep_conditioning and not any(_each(config.decoder_inject_noise)) and config.patch_size_t == 1


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _convolved(layer: Any, chunks: Iterable[torch.Tensor], causal: bool) -> Chunks:
    """`layer` over the frames; the first and the last are repeated beyond the ends."""
    size = layer.kernel_size[0]
    before = size - 1 if causal else (size - 1) // 2
    kept: torch.Tensor | None = None
    for chunk in chunks:
        edge = chunk[:, :, :1].expand(-1, -1, before, -1, -1) if kept is None else kept
        frames = torch.cat((edge, chunk), 2)
        # A view would hold the whole chunk.
        kept = frames[:, :, frames.shape[2] - min(size - 1, frames.shape[2]) :].clone()
        if frames.shape[2] >= size:
            yield layer.conv(frames)
    if kept is not None and before < size - 1:
        last = kept[:, :, -1:].expand(-1, -1, size - 1 - before, -1, -1)
        yield layer.conv(torch.cat((kept, last), 2))


def _residual(block: Any, chunks: Iterable[torch.Tensor], causal: bool) -> Chunks:
    waiting = _Waiting()

    def first() -> Chunks:
        for chunk in chunks:
            through = chunk
            if block.norm3 is not None:
                through = block.norm3(through.movedim(1, -1)).movedim(-1, 1)
            waiting.put(through if block.conv_shortcut is None else block.conv_shortcut(through))
            yield block.nonlinearity(block.norm1(chunk))

    middle = (block.nonlinearity(block.norm2(chunk)) for chunk in _convolved(block.conv1, first(), causal))
    for chunk in _convolved(block.conv2, middle, causal):
        yield chunk + waiting.take(chunk.shape[2])


def _upsampled(layer: Any, chunks: Iterable[torch.Tensor], causal: bool) -> Chunks:
    """`layer` over the frames. The first frame stays one: of what it becomes, all but the last is dropped."""
    time, space = layer.stride[0], layer.stride[1]
    waiting = _Waiting()
    surplus = time - 1

    def first() -> Chunks:
        for chunk in chunks:
            if layer.residual:
                repeats = time * space * space // layer.upscale_factor
                waiting.put(_unfolded(chunk, time, space).repeat(1, repeats, 1, 1, 1))
            yield chunk

    for chunk in _convolved(layer.conv, first(), causal):
        made = _unfolded(chunk, time, space)
        if layer.residual:
            made = made + waiting.take(made.shape[2])
        made, surplus = made[:, :, surplus:], 0
        if made.shape[2]:
            yield made


def _unfolded(frames: torch.Tensor, time: int, space: int, *, flipped: bool = False) -> torch.Tensor:
    """Channels become `time` frames of `space` x `space` pixels; `flipped`: width before height, as patches are laid."""
    n, _, count, height, width = frames.shape
    folded = frames.reshape(n, -1, time, space, space, count, height, width)
    order = (0, 1, 5, 2, 6, 4, 7, 3) if flipped else (0, 1, 5, 2, 6, 3, 7, 4)
    return folded.permute(order).flatten(6, 7).flatten(4, 5).flatten(2, 3)


class _Waiting:
    """Frames that went around a layer and wait for those that go through it."""

    def __init__(self) -> None:
        self._frames: torch.Tensor | None = None

    def put(self, frames: torch.Tensor) -> None:
        self._frames = frames if self._frames is None else torch.cat((self._frames, frames), 2)

    def take(self, count: int) -> torch.Tensor:
        assert self._frames is not None
        taken, rest = self._frames[:, :, :count], self._frames[:, :, count:]
        self._frames = rest.clone()
        return taken
