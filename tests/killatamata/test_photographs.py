from __future__ import annotations

from pathlib import Path

import pytest

import killatamata
from media.image import open_image

FOLDER = Path(killatamata.__file__).parent / "photographs"
PHOTOGRAPHS = sorted(FOLDER.glob("*.jpg"))


def test_there_is_one() -> None:
    assert "coffee.jpg" in [path.name for path in PHOTOGRAPHS]


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.name)
def test_it_is_small_whole_and_its_licence_is_told(path: Path) -> None:
    data = path.read_bytes()
    assert len(data) <= 300_000
    picture = open_image(data)
    assert (picture.format, picture.changes) == ("jpg", ())
    assert min(picture.pixels.shape[:2]) >= 256
    (row,) = [line for line in (FOLDER / "README.md").read_text().splitlines() if f"`{path.name}`" in line]
    assert "CC0" in row
