"""Whether a pool's line has room for one job more. It costs no query: the snapshot that estimates are made from tells."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from core.errors import PoolOverloaded
from core.metrics import ADMISSION_REFUSED
from jobs.snapshot import Queues, Snapshot

RETRY_MOST_SECONDS = 3600


class Admission:
    """Judges one process's submits by the snapshot, and by what this process let in since it was read."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._snapshot: Snapshot | None = None
        self._since: dict[tuple[str, UUID], float] = defaultdict(float)

    async def check(self, account_id: UUID, pools: Sequence[str], cost_seconds: float) -> None:
        """Let a job of `account_id` in, or refuse it while its wait in one of its pools would exceed that pool's limit.

        The wait is the measured run time of what stands in line or runs there, and of the account's own parked jobs, over
        the pool's slots: others' parked jobs come later and are nobody else's burden.

        Raises:
            PoolOverloaded: it would; Retry-After is how long the pool takes to work off the excess.
        """
        snapshot = await self._queues.snapshot()
        if snapshot is not self._snapshot:
            self._snapshot, self._since = snapshot, defaultdict(float)
        for pool in pools:
            most = snapshot.most.get(pool)
            if most is None:
                continue
            waiting = snapshot.wait_of(account_id, pool) + self._since[pool, account_id]
            if waiting > most:
                ADMISSION_REFUSED.labels(pool).inc()
                seconds = min(max(1, math.ceil(waiting - most)), RETRY_MOST_SECONDS)
                raise PoolOverloaded(
                    f"About {waiting:.0f} seconds of work wait before this job, and this service lets {most:g} wait; "
                    f"nothing was accepted. Send it again in {seconds} seconds, with the same idempotency key.",
                    headers={"Retry-After": str(seconds)},
                )
        self._since[pools[0], account_id] += cost_seconds / snapshot.slots.get(pools[0], 1)
