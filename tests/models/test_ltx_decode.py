"""Decoding in chunks gives what decoding all at once gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.ltx_decode import decoded, fits
from models.ltx_run import regrouped
from models.ltx_video import LtxVideo
from models.tiny_drawing import drawn
from models.tiny_ltx_video import LTX_2_3
from models.yuv import to_i420
from tests.models.ltx_clips import latents, run

VAE = LTX_2_3["vae"]
SMALL: dict[str, Any] = {
    "latent_channels": 16,
    "block_out_channels": (8, 16, 32, 32),
    "decoder_block_out_channels": (8, 16, 16, 32),
    "layers_per_block": (1,) * 5,
    "decoder_layers_per_block": (2,) * 5,
}
KINDS: dict[str, dict[str, Any]] = {
    "2.3": VAE,
    "2.3, causal": {**VAE, "decoder_causal": True},
    "residual": {**VAE, "upsample_residual": (True,) * 4, "decoder_spatial_padding_mode": "reflect"},
}


def vae(kind: str) -> Any:
    from diffusers import AutoencoderKLLTX2Video

    return drawn(AutoencoderKLLTX2Video(**SMALL, **KINDS[kind]), seed=1).eval()


def noise(count: int, height: int = 2, width: int = 3) -> torch.Tensor:
    return torch.randn(1, 16, count, height, width, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_frames_are_those_of_the_whole_decode(kind: str, count: int) -> None:
    model, given = vae(kind), noise(count)
    with torch.no_grad():
        whole = (model.decode(given).sample + 1) / 2
    for at_once in (1, 2):
        chunks = list(decoded(model, given, at_once))
        made = torch.cat(chunks, 2)
        assert made.shape == whole.shape == (1, 3, 8 * (count - 1) + 1, 64, 96)
        assert max(chunk.shape[2] for chunk in chunks) <= 8 * at_once
        torch.testing.assert_close(made, whole, atol=2e-5, rtol=0)
        assert whole.std() > 1e-3


def test_a_clip_s_bytes_are_those_of_the_whole_decode_up_to_rounding(ltx: LtxVideo) -> None:
    with torch.no_grad():
        whole = (ltx._pipeline.vae.decode(latents(ltx, frames=33)).sample[0].movedim(1, 0) + 1) / 2
    apart = np.abs(run(ltx, frames=33).astype(int) - to_i420(whole).numpy().astype(int))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-3


@pytest.mark.parametrize("at_once", [1, 2])
def test_no_layer_ever_holds_more_than_a_few_frames(at_once: int) -> None:
    model = vae("2.3")
    seen: list[int] = []
    for module in model.decoder.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(lambda _, given, made: seen.append(max(given[0].shape[2], made.shape[2])))
    for _ in decoded(model, noise(20), at_once):
        pass
    assert max(seen) <= 8 * at_once + 2


def test_frames_come_while_latents_are_still_to_come() -> None:
    model = vae("2.3")
    pushed: list[int] = []
    model.decoder.conv_in.conv.register_forward_hook(lambda *_: pushed.append(1))
    chunks = decoded(model, noise(40, 1, 1), 1)
    next(chunks)
    assert len(pushed) < 20


def test_nothing_remembers_gradients_and_the_drawer_may() -> None:
    chunks = decoded(vae("2.3"), noise(2), 1)
    assert not next(chunks).requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({}, True),
        ({"decoder_inject_noise": (False, True, False, False, False)}, False),
        ({"timestep_conditioning": True}, False),
    ],
)
def test_what_it_does_not_know_is_said(change: dict[str, Any], known: bool) -> None:
    from diffusers import AutoencoderKLLTX2Video

    assert fits(AutoencoderKLLTX2Video(**SMALL, **{**VAE, **change})) is known


@pytest.mark.parametrize("sizes", [[1], [16], [7, 8, 8, 8, 2, 1, 1, 1], [16, 16, 1], [3] * 11])
def test_regrouped_chunks_hold_the_same_frames_in_order(sizes: list[int]) -> None:
    every = np.arange(sum(sizes), dtype=np.uint8)[:, None, None]
    made = list(regrouped(iter(np.split(every, np.cumsum(sizes)[:-1])), 16))
    assert all(len(chunk) == 16 for chunk in made[:-1])
    assert 1 <= len(made[-1]) <= 16
    assert np.array_equal(np.concatenate(made), every)
