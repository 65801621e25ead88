"""How many requests somebody sent in the last minute: a sliding window counter, in memory or in Redis.

Requests are counted by whole minutes. The count of the last sixty seconds is that of the running minute, plus the one before
weighted by the part of it that still lies within sixty seconds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

WINDOW_SECONDS = 60
MOST_KNOWN = 100_000
"""Of each policy and minute; whoever comes later shares one count, so that made-up addresses cannot fill the memory."""

STORE_AWAY = (RedisError, OSError, TimeoutError)
"""What a Redis raises that is not there, is slow, or refuses."""

_OTHERS = "others"
_ROUNDING = 1e-6
_REDIS_SECONDS = 1.0
_REDIS_CONNECTIONS = 16
_REDIS_TAKE = """
local quota, amount, width = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local window = math.floor(now / width)
local elapsed = now - window * width
local kept = redis.call('HMGET', KEYS[1], 'window', 'previous', 'current')
local previous, current = 0, 0
if tonumber(kept[1]) == window then
  previous, current = tonumber(kept[2]), tonumber(kept[3])
elseif tonumber(kept[1]) == window - 1 then
  previous = tonumber(kept[3])
end
local admitted = previous * (1 - elapsed / width) + current < quota
if admitted and amount > 0 then
  current = current + amount
  redis.call('HSET', KEYS[1], 'window', window, 'previous', previous, 'current', current)
  redis.call('EXPIRE', KEYS[1], 2 * width)
end
return {admitted and 1 or 0, previous, current, math.floor(elapsed * 1000)}
"""


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `quota` requests in any `WINDOW_SECONDS`."""

    name: str
    quota: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where somebody stands under a policy: the counts of the minute before and of this one, `elapsed` seconds into it."""

    policy: Policy
    admitted: bool
    previous: int
    current: int
    elapsed: float

    @property
    def used(self) -> float:
        """Requests of the last `WINDOW_SECONDS`."""
        return self.previous * (1 - self.elapsed / WINDOW_SECONDS) + self.current

    @property
    def remaining(self) -> int:
        """Requests that would be admitted now."""
        return max(0, math.ceil(self.policy.quota - self.used))

    @property
    def wait(self) -> int:
        """Whole seconds after which the next request is admitted, if none comes between; 0: now."""
        quota = self.policy.quota
        if self.used < quota:
            return 0
        if self.current < quota:
            seconds = WINDOW_SECONDS * (1 - (quota - self.current) / self.previous) - self.elapsed
        else:
            seconds = WINDOW_SECONDS - self.elapsed + WINDOW_SECONDS * (1 - quota / self.current)
        return math.floor(max(seconds, 0) + _ROUNDING) + 1

    def headers(self) -> dict[str, str]:
        """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).

        `t` is when the running minute ends and its requests begin to count less; with nothing left, when to try again.
        """
        name, reset = self.policy.name, self.wait or math.ceil(WINDOW_SECONDS - self.elapsed)
        return {
            "ratelimit": f'"{name}";r={self.remaining};t={reset}',
            "ratelimit-policy": f'"{name}";q={self.policy.quota};w={WINDOW_SECONDS}',
        }


class Windows(Protocol):
    """Where requests are counted."""

    async def take(self, policy: Policy, who: str, amount: int = 1) -> Standing:
        """Count `amount` requests of `who` (0: only look), unless the quota is used up; refused ones are not counted."""

    async def close(self) -> None:
        """Let go of connections."""


class _Counts:
    __slots__ = ("current", "previous", "window")

    def __init__(self) -> None:
        self.window = 0
        self.previous: dict[str, int] = {}
        self.current: dict[str, int] = {}


class MemoryWindows:
    """Counts of this process alone. Old minutes are dropped whole, so a request costs the same however many callers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._policies: dict[str, _Counts] = {}

    async def take(self, policy: Policy, who: str, amount: int = 1) -> Standing:
        """See `Windows`."""
        counts = self._policies.get(policy.name)
        if counts is None:
            counts = self._policies[policy.name] = _Counts()
        window, elapsed = divmod(self._clock(), WINDOW_SECONDS)
        if window != counts.window:
            counts.previous = counts.current if window == counts.window + 1 else {}
            counts.window, counts.current = int(window), {}
        if len(counts.current) >= MOST_KNOWN and who not in counts.current:
            who = _OTHERS
        previous, current = counts.previous.get(who, 0), counts.current.get(who, 0)
        admitted = previous * (1 - elapsed / WINDOW_SECONDS) + current < policy.quota
        if admitted and amount:
            current += amount
            counts.current[who] = current
        return Standing(policy, admitted, previous, current, elapsed)

    async def close(self) -> None:
        """Nothing to let go of."""


class RedisWindows:
    """Counts that all processes share, by Redis's own clock; one round trip a request.

    Every failure (`STORE_AWAY`) comes within a second. Callers wait for a connection in the order they came: the library's
    own waiting pool lets some wait for long while others pass.
    """

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0))
        self._connections = asyncio.Semaphore(_REDIS_CONNECTIONS)
        self._take = self._redis.register_script(_REDIS_TAKE)

    async def take(self, policy: Policy, who: str, amount: int = 1) -> Standing:
        """See `Windows`.

        Raises:
            RedisError, OSError, TimeoutError: Redis is away.
        """
        key = f"killatamata:rate:{policy.name}:{who}"
        async with asyncio.timeout(_REDIS_SECONDS), self._connections:
            answer = await self._take(keys=[key], args=[policy.quota, amount, WINDOW_SECONDS])
        admitted, previous, current, elapsed = map(int, answer)
        return Standing(policy, bool(admitted), previous, current, elapsed / 1000)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
