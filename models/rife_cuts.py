"""Whether two frames in a row belong to one shot: between shots there is nothing to interpolate, only ghosts.

Both are compared as small pictures of luma. It is a cut when the brightness jumps, or when no small shift of one picture,
a quarter of it at a time, explains the other, whatever their brightness: pans, zooms, turns and fades go through.

The numbers were chosen on 16 photographs (of scikit-image and scikit-learn): of 176 movements (pans by 5 to 12 % of the
width, zooms by 10 %, turns by 6 degrees, fades, noise; all from one frame to the next) 2 were called cuts, zooms on a lawn;
of 120 changes from one photograph to another none was missed, and of 128 within one (mirrored, upside down, another part
of it, closer, negative, flash, to white, to black) 14, most of them mirrored ones that look alike either way.
"""

from __future__ import annotations

from itertools import product
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    import numpy.typing as npt

SIDE = 32
"""The longer side of the small pictures, in pixels."""
UNEXPLAINED = 0.4
"""The share of both pictures' variance that no shift explains, from which on it is a cut."""
JUMP = 0.2
"""Of the mean brightness in 0…1."""

_REACH = 8
"""Shifts go to one eighth of a side, each way."""
_NOTICEABLE = 0.025
"""What is unexplained must differ by so much (root of the mean square, in 0…1): flat pictures hold only noise."""


def small(luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """`luma` (height, width), 16…235, as means of areas in 0…1, the longer side 32 pixels at most."""
    longest = max(luma.shape)
    edges = []
    for side in luma.shape:
        count = min(side, max(1, round(side * SIDE / longest)))
        edges.append(np.arange(count + 1) * side // count)
    rows, columns = edges
    sums = np.add.reduceat(np.add.reduceat(luma, rows[:-1], 0, np.uint32), columns[:-1], 1)
    areas = np.outer(np.diff(rows), np.diff(columns))
    means: npt.NDArray[np.float32] = ((sums / areas - 16) / 219).astype(np.float32)
    return means


def is_cut(one: npt.NDArray[np.float32], two: npt.NDArray[np.float32]) -> bool:
    """Whether something else begins with the second of two pictures made by `small`, of one shape; the same either way."""
    if abs(float(one.mean()) - float(two.mean())) > JUMP:
        return True
    return not (_explains(one, two) and _explains(two, one))


def _explains(two: npt.NDArray[np.float32], one: npt.NDArray[np.float32]) -> bool:
    """Whether each quarter of the middle of `one` is somewhere near in `two`."""
    height, width = one.shape
    down, across = height // _REACH, width // _REACH
    inner = one[down : height - down, across : width - across]
    shifted = sliding_window_view(two, inner.shape)
    error = variance = 0.0
    for rows, columns in product(_halves(inner.shape[0]), _halves(inner.shape[1])):
        ours, theirs = inner[rows, columns], shifted[:, :, rows, columns]
        if not ours.size:
            continue
        ours, theirs = ours - ours.mean(), theirs - theirs.mean((2, 3), keepdims=True)
        errors = ((ours - theirs) ** 2).mean((2, 3))
        variances = (ours**2).mean() + (theirs**2).mean((2, 3))
        best = np.unravel_index(np.argmin(errors / (variances + 1e-4)), errors.shape)
        error += float(errors[best]) * ours.size / inner.size
        variance += float(variances[best]) * ours.size / inner.size
    return sqrt(error) <= _NOTICEABLE or error <= UNEXPLAINED * variance


def _halves(length: int) -> tuple[slice, slice]:
    return slice(0, length // 2), slice(length // 2, length)
