from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from media.clip import SAMPLE_RATE, sound_samples
from models.ltx_sound import _slower, latents_of, sound_of
from models.ltx_video import LtxVideo
from tests.models.ltx_clips import tone


def at(hertz: float, seconds: float = 0.5) -> torch.Tensor:
    return torch.sin(torch.arange(int(SAMPLE_RATE * seconds)) / SAMPLE_RATE * 2 * torch.pi * hertz)[None]


@pytest.mark.parametrize("hertz", [50, 1000, 6000])
def test_what_the_lower_rate_can_hold_keeps_its_shape(hertz: float) -> None:
    made = _slower(at(hertz), 3)[0]
    wanted = at(hertz)[0, ::3]
    assert made.shape == wanted.shape
    assert float((made - wanted)[100:-100].abs().max()) < 0.01


@pytest.mark.parametrize("hertz", [9000, 12_000, 20_000])
def test_what_it_cannot_hold_is_gone(hertz: float) -> None:
    assert float(_slower(at(hertz), 3)[0, 100:-100].abs().max()) < 0.01


@pytest.mark.parametrize(("frames", "fps"), [(9, 30), (17, 24), (121, 25), (33, 8)])
def test_latents_are_as_long_as_the_clip_s(ltx: LtxVideo, frames: int, fps: int) -> None:
    made = latents_of(ltx._pipeline, tone(frames, fps), frames, Fraction(fps), "cpu")
    assert made.shape == (1, 2, round(frames / fps * 25), 4)
    assert torch.isfinite(made).all()


def test_latents_of_silence_and_of_full_scale_are_finite_and_differ(ltx: LtxVideo) -> None:
    silent, loud = (
        latents_of(ltx._pipeline, np.full_like(tone(), level), 17, Fraction(24), "cpu") for level in (0.0, 1.0)
    )
    assert torch.isfinite(silent).all()
    assert torch.isfinite(loud).all()
    assert not torch.equal(silent, loud)


@pytest.mark.parametrize("length", [10, 25])
def test_sound_is_padded_or_cut_to_the_clip_s_length(ltx: LtxVideo, length: int) -> None:
    latents = torch.randn(1, 2, length, 4, generator=torch.Generator().manual_seed(1))
    made = sound_of(ltx._pipeline, latents, 17, Fraction(24))
    assert made.shape == (2, sound_samples(17, Fraction(24)))
    assert np.abs(made).max() <= 1
    assert bool(made[:, -10:].any()) is (length == 25)
