"""A job's receipt, checked without trusting who sent it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from billing.chain import Entry, Movement, holds
from core.errors import OperatorError
from core.money import usd

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ReceiptBroken(OperatorError):
    """A receipt does not say what its hashes seal, or is none."""


def checked(receipt: Mapping[str, Any]) -> list[dict[str, str]]:
    """The entries of a receipt as rows, oldest first, after every movement was checked against its hash.

    Raises:
        ReceiptBroken: a movement was altered, its entries do not sum to zero, or this is no receipt.
    """
    try:
        movements = [(each["movementId"], _movement(each)) for each in receipt["movements"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ReceiptBroken("this is no receipt as this version knows them; --json prints what the API said") from None
    broken = [name for name, movement in movements if not holds(movement)]
    if broken:
        raise ReceiptBroken(f"these movements are not what their hashes seal: {', '.join(broken)}")
    return [_row(name, movement, entry) for name, movement in movements for entry in movement.entries]


def _movement(told: Mapping[str, Any]) -> Movement:
    return Movement(
        id=0,
        kind=str(told["kind"]),
        business_id=str(told["businessId"]),
        created_at=_EPOCH + timedelta(microseconds=int(told["createdAtMicros"])),
        request_id=told.get("requestId"),
        entries=tuple(
            Entry(str(each["book"]), int(each["amountMicros"]), _optional(each["balanceAfterMicros"]))
            for each in told["entries"]
        ),
        previous_hash=bytes.fromhex(told["previousHash"]),
        hash=bytes.fromhex(told["hash"]),
    )


def _optional(micros: Any) -> int | None:
    return None if micros is None else int(micros)


def _row(name: str, movement: Movement, entry: Entry) -> dict[str, str]:
    return {
        "movement": name,
        "kind": movement.kind,
        "at": movement.created_at.isoformat(timespec="seconds"),
        "book": entry.book,
        "USD": usd(entry.amount),
        "balance after": "" if entry.balance_after is None else usd(entry.balance_after),
    }
