"""The hash chain of an account's movements, as anybody who has them can check it.

A movement's hash is SHA-256 over the 32 bytes of the hash before it and the UTF-8 text
`kind|microseconds since 1970|entries|business id`, where the entries, in their order, are `book:amount:balance after` joined
by `;` (without a balance for the platform's books). The first movement of an account follows 32 zero bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

GENESIS = bytes(32)
"""What the first movement of an account follows."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    """One line of a movement, in micro-dollars; a credit is positive. The platform's books show no balance."""

    book: str
    amount: int
    balance_after: int | None


@dataclass(frozen=True)
class Movement:
    """Money that moved once: its entries sum to zero, its hash seals them and the movement before."""

    id: int
    kind: str
    business_id: str
    created_at: datetime
    request_id: str | None
    entries: tuple[Entry, ...]
    previous_hash: bytes
    hash: bytes

    @property
    def created_at_micros(self) -> int:
        """Microseconds since 1970, as they are hashed."""
        return _micros(self.created_at)


def _micros(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)


def link(previous: bytes, kind: str, created_at: datetime, entries: Sequence[Entry], business_id: str) -> bytes:
    """The hash of a movement that follows `previous` (32 bytes)."""
    lines = ";".join(
        f"{each.book}:{each.amount}:{'' if each.balance_after is None else each.balance_after}" for each in entries
    )
    return hashlib.sha256(previous + f"{kind}|{_micros(created_at)}|{lines}|{business_id}".encode()).digest()


def holds(movement: Movement) -> bool:
    """Whether the movement's hash follows from what it says and the hash before it, and its entries sum to zero."""
    expected = link(movement.previous_hash, movement.kind, movement.created_at, movement.entries, movement.business_id)
    return expected == movement.hash and sum(each.amount for each in movement.entries) == 0
