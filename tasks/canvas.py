"""The size of a picture: width and height go together, in steps of 32 pixels, within a budget of pixels."""

from __future__ import annotations

from collections.abc import Set
from typing import Annotated

from pydantic import Field

from media.arithmetic import MAX_PIXELS, fitting_canvas, floor_side
from media.arithmetic import SIDE_STEP as STEP
from tasks.base import Findings
from tasks.fields import WHOLE

MIN_SIDE = 256
MAX_SIDE = MAX_PIXELS // MIN_SIDE

Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE), WHOLE]
"""Pixels."""


def canvas(width: int, height: int, given: Set[str], findings: Findings) -> tuple[int, int]:
    """The (width, height) that will be made, each rounded down to a multiple of `STEP`.

    `given` holds the names of the fields that the caller set: one of the two alone is refused, and so is an area
    above `MAX_PIXELS` after rounding.
    """
    for name, other in (("width", "height"), ("height", "width")):
        if name in given and other not in given:
            findings.refuse(other, f"is required beside `{name}`: give both, or neither")
            return width, height
    sides = {"width": floor_side(width), "height": floor_side(height)}
    if sides["width"] * sides["height"] > MAX_PIXELS:
        fitting = dict(zip(sides, fitting_canvas(sides["width"], sides["height"], MIN_SIDE), strict=True))
        for name, side in fitting.items():
            message = (
                f"width × height must be at most {MAX_PIXELS} pixels, as in {fitting['width']} × {fitting['height']}"
            )
            findings.refuse(name, message, allowed={"maxPixels": MAX_PIXELS}, nearest=side)
        return width, height
    for name, side in (("width", width), ("height", height)):
        if sides[name] != side:
            findings.adjust(name, side, sides[name], f"multiple of {STEP}")
    return sides["width"], sides["height"]
