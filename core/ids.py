"""Identifiers: time-ordered UUIDs inside, prefixed Crockford base 32 outside (the TypeID format).

`job_01jd3x8v5kf4k9s2t6w7y8z9ab` carries a UUIDv7 (RFC 9562, section 5.7) as 26 characters of base 32.
PostgreSQL before 18 has no `uuidv7()`, so identifiers are drawn here.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from functools import lru_cache

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}
_LENGTH = 26
_RANDOM = (1 << 62) - 1


class _Clock:
    """Milliseconds with a counter of 12 bits behind them, that never come twice or go back (RFC 9562, section 6.2)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tick = 0

    def tick(self, start: int) -> int:
        """60 bits. In each millisecond the counter begins at `start`, below 2048; beyond 4095 it borrows from the next."""
        fresh = (time.time_ns() // 1_000_000 << 12) + start
        with self._lock:
            self._tick = fresh if fresh >> 12 > self._tick >> 12 else self._tick + 1
            return self._tick


_clock = _Clock()


def uuid7() -> uuid.UUID:
    """A new UUIDv7: 48 bits of Unix milliseconds, a counter of 12, 62 random bits. One process's ids grow."""
    random = int.from_bytes(os.urandom(10), "big")
    tick = _clock.tick(random >> 69)
    value = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64
    return uuid.UUID(int=value | 0x2 << 62 | random & _RANDOM)


@lru_cache(maxsize=4096)
def encode(prefix: str, value: uuid.UUID) -> str:
    """`value` as a public identifier: `prefix`, an underscore, 26 characters. An answer names its job several times."""
    number = value.int
    return f"{prefix}_" + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def decode(prefix: str, text: str) -> uuid.UUID | None:
    """The UUID inside `text`, or None when `text` is no identifier with this prefix."""
    head, _, tail = text.rpartition("_")
    if head != prefix or len(tail) != _LENGTH or tail[0] > "7":
        return None
    number = 0
    for character in tail:
        value = _VALUE.get(character)
        if value is None:
            return None
        number = number << 5 | value
    return uuid.UUID(int=number)
