"""Identifiers: time-ordered UUIDs inside, prefixed Crockford base 32 outside (the TypeID format).

`job_01jd3x8v5kf4k9s2t6w7y8z9ab` carries a UUIDv7 (RFC 9562, section 5.7) as 26 characters of base 32.
PostgreSQL before 18 has no `uuidv7()`, so identifiers are drawn here.
"""

from __future__ import annotations

import os
import time
import uuid

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}
_LENGTH = 26


def uuid7() -> uuid.UUID:
    """A new UUIDv7: 48 bits of Unix milliseconds, then 74 random bits."""
    value = int.from_bytes((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10), "big")
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return uuid.UUID(int=value)


def encode(prefix: str, value: uuid.UUID) -> str:
    """`value` as a public identifier: `prefix`, an underscore, 26 characters."""
    number = value.int
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


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
