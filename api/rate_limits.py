"""How often one caller may ask: each key by itself, and each address for all it sends without a valid key."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from accounts.keys import Caller
from api.client_address import network_of
from api.lately import Lately
from api.windows import STORE_AWAY, MemoryWindows, Policy, RedisWindows, Standing, Windows
from core.errors import RateLimited
from core.log import logger
from core.metrics import RATE_LIMIT_STORE_FAILURES, RATE_LIMITED
from core.settings import Settings

RETRY_STORE_SECONDS = 5.0
"""After a failure the shared store is left alone for so long, so that a Redis that hangs slows few requests."""
REFUSED_SECONDS = 60.0
"""For so long an address that was refused is known to be over its limit."""

_log = logger(__name__)


class RateLimits:
    """The limits of one ingress process. While the shared store is away, the process counts for itself."""

    def __init__(
        self, settings: Settings, shared: Windows | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.writes = Policy("writes", settings.writes_per_minute)
        self.reads = Policy("reads", settings.reads_per_minute)
        self.without_key = Policy("without-key", settings.requests_per_minute_without_key)
        self._own = MemoryWindows()
        self._refused: Lately[str] = Lately(REFUSED_SECONDS, 10_000)
        self._shared = shared
        self._shared_from = 0.0
        self._clock = clock

    @classmethod
    def of(cls, settings: Settings) -> RateLimits:
        """The limits as `settings` describe them; nothing is connected yet."""
        return cls(settings, RedisWindows(settings.rate_limit_store) if settings.rate_limit_store else None)

    async def admit_key(self, scope: Any, caller: Caller, *, writes: bool) -> None:
        """Count a request with a valid key, and leave its `RateLimit` headers in the request's state.

        Raises:
            RateLimited: the key sent too many of this kind.
        """
        policy = self.writes if writes else self.reads
        standing = await self._admit(scope, policy, caller.key_prefix)
        if standing is not None:
            raise RateLimited(
                f"This key may send {policy.quota} {policy.name} a minute; the next is taken in {standing.wait} seconds.",
                headers={"Retry-After": str(standing.wait)},
            )

    async def admit_address(self, scope: Any) -> None:
        """Count a request without a valid key, and leave its `RateLimit` headers in the request's state.

        Raises:
            RateLimited: its address sent too many of them.
        """
        policy, who = self.without_key, network_of(scope.get("client"))
        standing = await self._admit(scope, policy, who)
        if standing is not None:
            self._refused.note(who)
            raise RateLimited(
                f"This address may send {policy.quota} requests a minute without a valid key; the next is taken in"
                f" {standing.wait} seconds, with a valid key at once.",
                headers={"Retry-After": str(standing.wait)},
            )

    def lately_refused(self, scope: Any) -> bool:
        """Whether this process refused the request's address a moment ago."""
        return network_of(scope.get("client")) in self._refused

    async def standing(self, policy: Policy, who: str) -> Standing | None:
        """Where somebody stands, uncounted; None when the policy sets no limit."""
        return await self._take(policy, who, 0) if policy.quota else None

    async def close(self) -> None:
        """Let go of the shared store."""
        if self._shared is not None:
            await self._shared.close()

    async def _admit(self, scope: Any, policy: Policy, who: str) -> Standing | None:
        """None: admitted; otherwise where the refused caller stands."""
        if not policy.quota:
            return None
        standing = await self._take(policy, who, 1)
        scope["state"]["rate_limit"] = standing.headers()
        if standing.admitted:
            return None
        RATE_LIMITED.labels(policy.name).inc()
        return standing

    async def _take(self, policy: Policy, who: str, amount: int) -> Standing:
        if self._shared is not None and self._clock() >= self._shared_from:
            try:
                return await self._shared.take(policy, who, amount)
            except STORE_AWAY as error:
                RATE_LIMIT_STORE_FAILURES.inc()
                self._shared_from = self._clock() + RETRY_STORE_SECONDS
                _log.warning("the store of rate limits is away; this process counts for itself", error=repr(error))
        return await self._own.take(policy, who, amount)
