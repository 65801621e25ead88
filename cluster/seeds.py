"""The seed of an attempt: the job's own, or one derived from it when the attempt before made an output of no use.

The same seed would make the same output again, so a spoilt attempt is retried once with another one. It follows from the
job's seed and the number of spoilt attempts alone: nothing is stored, and any dispatcher finds the same.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cluster.steps import Steps
from tasks.fields import MAX_SEED


def derived(seed: int, spoilt: int) -> int:
    """The seed after `spoilt` spoilt attempts: the first four bytes of SHA-256 of `<seed>:<spoilt>`, without the top bit."""
    if spoilt == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{spoilt}".encode()).digest()[:4], "big") & MAX_SEED


async def seed_of(steps: Steps) -> tuple[int, list[dict[str, Any]]]:
    """The seed of this attempt, and the adjustment that says so when it is not the job's own."""
    seed, spoilt = steps.input["seed"], await steps.spoilt()
    if spoilt == 0:
        return seed, []
    other = derived(seed, spoilt)
    reason = "the output of the first attempt was of no use (not finite, blank or frozen)"
    return other, [{"field": "seed", "from": seed, "to": other, "reason": reason, "at": "run"}]
