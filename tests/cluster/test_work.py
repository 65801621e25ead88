from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster import work
from media.image import MIME_TYPES, Format
from media.provenance import Recipe

RECIPE = Recipe(task="image.edit", engine="e", weights_digest="d", stand_in=False, seed=1, input_sha256="00" * 32)


@dataclass
class Made:
    pixels: Any


MADE = Made(np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8))


@pytest.mark.parametrize("kind", MIME_TYPES)
def test_a_picture_tells_its_recipe_unless_that_is_switched_off(kind: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    told, small = work.encode_picture(MADE, kind, (192, 128), RECIPE)
    monkeypatch.setenv("KILLATAMATA_PROVENANCE", "false")
    silent, same = work.encode_picture(MADE, kind, (192, 128), RECIPE)
    assert small == same
    assert (small.width, small.height) == (192, 128)
    with Image.open(io.BytesIO(told)) as with_it, Image.open(io.BytesIO(silent)) as without:
        assert with_it.get_format_mimetype() == MIME_TYPES[kind]
        assert with_it.size == (192, 128)
        assert b"effectiveInputSha256" in with_it.info["xmp"]
        assert "xmp" not in without.info
        assert (np.asarray(with_it) == np.asarray(without)).all()
