from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.chain import GENESIS, Entry, link
from killatamata.receipts import ReceiptBroken, checked

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def movement(name: str, kind: str, previous: bytes, *entries: tuple[str, int, int | None]) -> dict[str, Any]:
    """A movement as the API answers it."""
    micros = 1_795_000_000_123_456
    lines = [Entry(*entry) for entry in entries]
    sealed = link(previous, kind, EPOCH + timedelta(microseconds=micros), lines, f"{kind}:1")
    return {
        "movementId": name,
        "kind": kind,
        "businessId": f"{kind}:1",
        "requestId": "req_1",
        "createdAt": "2026-11-18T10:26:40.123Z",
        "createdAtMicros": micros,
        "entries": [
            {"entryId": f"{name}_{number}", "book": each.book, "amountMicros": each.amount}
            | {"balanceAfterMicros": each.balance_after, "amountUsd": "ignored"}
            for number, each in enumerate(lines, 1)
        ],
        "previousHash": previous.hex(),
        "hash": sealed.hex(),
    }


def receipt() -> dict[str, Any]:
    hold = movement("mov_1", "hold", GENESIS, ("available", -20972, 979028), ("held", 20972, 20972))
    # Another job's movement may lie between two of this one.
    capture = movement("mov_2", "capture", bytes(31) + b"\x01", ("held", -20972, 0), ("revenue", 20972, None))
    return {"jobId": "job_1", "currency": "USD", "state": "captured", "movements": [hold, capture]}


def test_an_honest_receipt_is_shown_entry_by_entry() -> None:
    rows = checked(receipt())
    assert [(row["movement"], row["book"], row["USD"], row["balance after"]) for row in rows] == [
        ("mov_1", "available", "-0.020972", "0.979028"),
        ("mov_1", "held", "0.020972", "0.020972"),
        ("mov_2", "held", "-0.020972", "0.000000"),
        ("mov_2", "revenue", "0.020972", ""),
    ]
    assert checked({**receipt(), "movements": []}) == []


def entry(**change: Any) -> Callable[[dict[str, Any]], object]:
    return lambda told: told["movements"][1]["entries"][0].update(change)


@pytest.mark.parametrize(
    "alter",
    [
        lambda told: told["movements"][1].update(kind="release"),
        lambda told: told["movements"][1].update(businessId="capture:2"),
        lambda told: told["movements"][1].update(createdAtMicros=1),
        lambda told: told["movements"][1].update(previousHash="00" * 32),
        lambda told: told["movements"][1].update(hash="11" * 32),
        lambda told: told["movements"][1]["entries"].reverse(),
        lambda told: told["movements"][1]["entries"].pop(),
        entry(amountMicros=-1),
        entry(balanceAfterMicros=1),
        entry(book="available"),
    ],
)
def test_an_altered_movement_is_named(alter: Callable[[dict[str, Any]], object]) -> None:
    told = copy.deepcopy(receipt())
    alter(told)
    with pytest.raises(ReceiptBroken, match=r"not what their hashes seal: mov_2$"):
        checked(told)


def test_a_movement_that_makes_money_is_refused_although_it_is_sealed() -> None:
    minted = movement("mov_9", "topup", GENESIS, ("available", 5, 5))
    with pytest.raises(ReceiptBroken, match="mov_9"):
        checked({"movements": [minted]})


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"movements": None},
        {"movements": [None]},
        {"movements": [{}]},
        {"movements": [{**movement("m", "hold", GENESIS), "hash": "xyz"}]},
        {"movements": [{**movement("m", "hold", GENESIS), "createdAtMicros": 10**30}]},
        {"movements": [{**movement("m", "hold", GENESIS), "entries": [{"book": "held"}]}]},
    ],
)
def test_what_is_no_receipt_is_said_to_be_none(told: dict[str, Any]) -> None:
    with pytest.raises(ReceiptBroken, match="no receipt"):
        checked(told)
