from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.ltx_video import LtxVideo
from models.qwen_image import QwenImage
from models.weights import Weights, resolve


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="session")
def tiny(cache: Path) -> Weights:
    return resolve("tiny:qwen-image", cache)


@pytest.fixture(scope="session")
def loaded(tiny: Weights) -> QwenImage:
    engine = QwenImage()
    engine.load(tiny, "cpu")
    return engine


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As in a replica: and where other processes want the cores too, several threads wait for one another at each layer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_ltx(cache: Path) -> Weights:
    return resolve("tiny:ltx-video", cache)


@pytest.fixture(scope="session")
def ltx(tiny_ltx: Weights) -> LtxVideo:
    engine = LtxVideo()
    engine.load(tiny_ltx, "cpu")
    return engine
