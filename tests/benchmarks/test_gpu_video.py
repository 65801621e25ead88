from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import video
from benchmarks.gpu.architectures import hollow
from benchmarks.gpu.ltx_architecture import FULL, VOCABULARY
from models.ltx_options import LtxOptions
from models.rife import RifeOptions
from models.tiny_ltx_video import makers, train_tokenizer

TINY = ["--size", "tiny", "--device", "cpu", "--clips", "64x64x9", "--runs", "1"]


def test_it_measures_what_can_run_here_beside_stock_and_says_what_cannot(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert video.main([*TINY, "--out", str(out), "--options", "stock", "plain", "flash3"]) == 0
    stock, plain, flash = json.loads(out.read_text())["rows"]
    for row in (stock, plain):
        assert row["totalSeconds"] >= row["stepSeconds"] > 0
        assert row["peakRamBytes"] > 10**8
    assert "Hopper" in flash["skipped"]


def test_it_measures_the_full_schedule_in_two_stages(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ["--schedule", "full", "--steps", "2", "--extreme", "--options", "plain"]
    assert video.main([*TINY, "--out", str(out), *words]) == 0
    assert json.loads(out.read_text())["rows"][0]["stepSeconds"] > 0


def test_it_measures_the_frames_that_are_interpolated(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ["--device", "cpu", "--runs", "1", "--options", "rife", "--rife-clips", "256x128x3", "192x128x2"]
    assert video.main([*words, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["engine"], row["clip"]) for row in rows] == [("rife", "256x128x3"), ("rife", "192x128x2")]
    for row, delivered in zip(rows, (5, 3), strict=True):
        assert row["framesPerSecond"] * row["totalSeconds"] == pytest.approx(delivered, rel=0.1)
        assert row["interpolatedPerSecond"] > 0


@pytest.mark.parametrize("name", list(video.RIFE_OPTION_SETS))
def test_every_option_set_of_rife_is_one_that_a_fleet_may_have(name: str) -> None:
    RifeOptions.model_validate(video.RIFE_OPTION_SETS[name])


@pytest.mark.parametrize("name", list(video.OPTION_SETS))
def test_every_option_set_is_one_that_a_fleet_may_have(name: str) -> None:
    LtxOptions.model_validate(video.OPTION_SETS[name])


def test_the_full_size_is_that_of_production() -> None:
    made = makers(FULL, train_tokenizer(), vocabulary=VOCABULARY["full"])
    parts = {name: hollow(make) for name, make in made.items()}
    parts["text_encoder"].tie_weights()
    billions = {name: round(sum(each.numel() for each in part.parameters()) / 1e9, 2) for name, part in parts.items()}
    assert billions == {
        "transformer": 18.99,
        "connectors": 3.17,
        "vae": 0.73,
        "audio_vae": 0.05,
        "vocoder": 0.13,
        "latent_upsampler": 0.5,
        "text_encoder": 12.2,
    }
