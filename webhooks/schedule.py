"""When a notice is tried, and how long everything around a try may take."""

from __future__ import annotations

import random
from dataclasses import dataclass

DELAYS_SECONDS = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 46_800.0)
"""Pauses after the first try, the second, and so on: 10 tries within 23 h 43 min."""


@dataclass(frozen=True)
class Schedule:
    """All times are in seconds.

    A pause is drawn between `1 - jitter` and 1 times its delay, so that the last try never comes after the sum of them.
    `lease` is how long a try owns its delivery: a try that has not ended by then is dead. `overdue` is how long after its
    time a delivery may still wait before it is relayed anew. `poll` bounds how late an outbox row or a due try is seen.
    `share_pause` is the least that a try stands back for others of its account; it waits up to twice as long.
    `beat` is the pause between a worker's signs of life, `silence` after how long without one its tasks go to others.
    """

    delays: tuple[float, ...] = DELAYS_SECONDS
    jitter: float = 0.2
    timeout: float = 15.0
    lease: float = 30.0
    overdue: float = 60.0
    poll: float = 1.0
    share_pause: float = 1.0
    beat: float = 10.0
    silence: float = 30.0
    drain: float = 5.0
    recover_cron: str = "* * * * * */15"

    @property
    def tries(self) -> int:
        """How often a notice is tried at most."""
        return len(self.delays) + 1

    def pause(self, number: int) -> float | None:
        """The pause after try `number` (from 1), drawn anew by every call; None after the last try."""
        if number >= self.tries:
            return None
        return self.delays[number - 1] * random.uniform(1 - self.jitter, 1)  # noqa: S311 (spreads load, hides nothing)
