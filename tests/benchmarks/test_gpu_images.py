from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import images
from benchmarks.gpu.architectures import SHAPES, hollow
from models.qwen_options import QwenOptions

TINY = ["--size", "tiny", "--device", "cpu", "--canvas", "64x64", "--runs", "1"]


@pytest.mark.parametrize("engine", list(images.ENGINES))
def test_it_measures_what_can_run_here_and_says_what_cannot(engine: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    names = ["first-block", "flash3"]
    assert images.main([*TINY, "--engine", engine, "--steps", "20", "--out", str(out), "--options", *names]) == 0
    cached, flash = json.loads(out.read_text())["rows"]
    assert cached["stepSeconds"] > 0
    assert cached["totalSeconds"] >= cached["stepSeconds"]
    assert cached["peakRamBytes"] > 10**8
    assert "Hopper" in flash["skipped"]


@pytest.mark.parametrize("name", list(images.OPTION_SETS))
def test_every_option_set_is_one_that_a_fleet_may_have(name: str) -> None:
    QwenOptions.model_validate(images.OPTION_SETS[name])


def test_the_full_size_is_that_of_production() -> None:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    shapes = SHAPES["full"]
    transformer = hollow(lambda: QwenImageTransformer2DModel(**shapes["transformer"]))
    assert round(sum(each.numel() for each in transformer.parameters()) / 1e9, 2) == 20.43
    assert round(sum(each.numel() for each in hollow(AutoencoderKLQwenImage).parameters()) / 1e9, 2) == 0.13
