"""Python's collector of reference cycles, set for a process that serves for a long time."""

from __future__ import annotations

import gc

_YOUNG = 50_000
"""Objects in surplus before a look at the youngest; the default of 700 is reached by every request or two."""


def spare_the_collector() -> None:
    """Leave what was loaded out of every further look for cycles, and look less often.

    A request makes hardly any cycle: its objects go when the last reference does. To be called once all is imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 50)
