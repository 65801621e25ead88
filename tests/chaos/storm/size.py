"""How large a storm is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Jobs and faults within `seconds`; `flood`: jobs of the flood that comes before.

    `real`: with a real engine. `only`: these faults in turn, in the place of those drawn.
    """

    jobs: int
    faults: int
    seconds: float
    flood: int
    real: bool = True
    only: tuple[str, ...] = ()


FULL = Size(jobs=2000, faults=228, seconds=900, flood=60)
SHORT = Size(jobs=60, faults=16, seconds=70, flood=20)
