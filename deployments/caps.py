"""Caps of a stand-in: the engine works at a smaller canvas and with fewer steps than were promised.

The result is brought to the promised canvas when it is encoded, and the job says `standIn: true`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

_GRAIN = 32
_FLOOR = 64


@dataclass(frozen=True)
class Caps:
    """`canvas`: most pixels, `steps`: most steps; None: as asked."""

    canvas: int | None
    steps: int | None

    def applied(self, request: Any) -> Any:
        """`request` (a dataclass with `width`, `height` and `steps` as it has them) within the caps, aspect kept.

        Sides become multiples of 32, at least 64 px, so an extreme aspect may stay a little above the cap.
        """
        changes: dict[str, int] = {}
        width, height = getattr(request, "width", None), getattr(request, "height", None)
        if self.canvas is not None and width and height and width * height > self.canvas:
            scale = math.sqrt(self.canvas / (width * height))
            changes["width"] = max(_FLOOR, int(width * scale) // _GRAIN * _GRAIN)
            changes["height"] = max(_FLOOR, int(height * scale) // _GRAIN * _GRAIN)
        steps = getattr(request, "steps", None)
        if self.steps is not None and steps and steps > self.steps:
            changes["steps"] = self.steps
        return dataclasses.replace(request, **changes) if changes else request
