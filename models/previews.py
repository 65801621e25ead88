"""Small pictures of a run on its way: when they come, and as what."""

from __future__ import annotations

import io
from typing import Any

_SIDE = 192


class Schedule:
    """When a preview is due: after `first` seconds, and then always after twice the time."""

    def __init__(self, first: float) -> None:
        self._next = first

    def due(self, seconds: float) -> bool:
        """Whether one is due after so many seconds; asking for it counts as showing it."""
        if seconds < self._next:
            return False
        self._next = 2 * seconds
        return True


def as_webp(rgb: Any) -> bytes:
    """A WebP of at most 192 pixels a side of the tensor `rgb` in -1…1, shape (height, width, 3)."""
    import torch
    from PIL import Image

    pixels = ((rgb.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=60, method=0)
    return file.getvalue()
