"""Receipts and statements over a real ledger: complete, sealed, paged, and one's own only."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api import billing
from billing import statements
from billing.chain import GENESIS, Entry, link
from tests.serving import Served, serving

ENTRIES = "/api/v1/billing/entries"
RECEIPT = "/api/v1/media/jobs/receipt"


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(database_url, tmp_path) as made:
        yield made


def sealed(movement: dict[str, Any]) -> str:
    """The movement's hash, computed from what its owner was told."""
    entries = [Entry(each["book"], each["amountMicros"], each["balanceAfterMicros"]) for each in movement["entries"]]
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=movement["createdAtMicros"])
    previous = bytes.fromhex(movement["previousHash"])
    return link(previous, movement["kind"], at, entries, movement["businessId"]).hex()


async def receipt(served: Served, job_id: str) -> dict[str, Any]:
    answer = await served.client.get(RECEIPT, params={"jobId": job_id})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_receipt_has_the_hold_and_the_capture_and_they_are_chained(served: Served) -> None:
    job = await served.submit()
    held = await receipt(served, job["jobId"])
    assert (held["state"], [each["kind"] for each in held["movements"]]) == ("held", ["hold"])
    await served.succeed(await served.claim())
    done = await receipt(served, job["jobId"])
    assert (done["state"], done["amountMicros"]) == ("captured", job["billing"]["amountMicros"])
    hold, capture = done["movements"]
    assert (hold["kind"], capture["kind"]) == ("hold", "capture")
    assert [(each["book"], each["amountMicros"]) for each in hold["entries"] + capture["entries"]] == [
        ("available", -20972),
        ("held", 20972),
        ("held", -20972),
        ("revenue", 20972),
    ]
    assert capture["previousHash"] == hold["hash"]
    assert all(sealed(each) == each["hash"] for each in (hold, capture))
    assert len({entry["entryId"] for each in done["movements"] for entry in each["entries"]}) == 4


async def test_a_released_hold_is_on_the_receipt(served: Served) -> None:
    job = await served.submit()
    assert (await served.client.delete("/api/v1/media/jobs", params={"jobId": job["jobId"]})).status_code == 200
    found = await receipt(served, job["jobId"])
    assert [each["kind"] for each in found["movements"]] == ["hold", "release"]
    assert sum(entry["amountMicros"] for each in found["movements"] for entry in each["entries"]) == 0
    assert all(sealed(each) == each["hash"] for each in found["movements"])


async def test_a_receipt_is_its_owners(served: Served) -> None:
    job = await served.submit()
    async with await served.another() as other:
        for job_id in (job["jobId"], "job_nonsense", "job_01jd3x8v5kf4k9s2t6w7y8z9ab"):
            answer = await other.get(RECEIPT, params={"jobId": job_id})
            assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


async def test_a_changed_entry_breaks_the_chain(served: Served) -> None:
    await served.submit()
    database = served.services.database
    assert await database.fetch_value("SELECT chain_break($1)", served.account) is None
    await database.execute("ALTER TABLE entry DISABLE TRIGGER USER")
    await database.execute("UPDATE entry SET balance_after = balance_after + 1 WHERE seq = 2 AND book = 'held'")
    broken = await database.fetch_value("SELECT chain_break($1)", served.account)
    assert broken == await database.fetch_value("SELECT max(id) FROM movement")


async def test_the_first_movement_follows_nothing(served: Served) -> None:
    row = await served.services.database.fetch_row("SELECT * FROM movement WHERE kind = 'topup'")
    assert row is not None
    entries = [Entry("clearing", -10_000_000, None), Entry("available", 10_000_000, 10_000_000)]
    assert row["hash"] == link(GENESIS, "topup", row["created_at"], entries, row["business_id"])


async def test_entries_come_page_by_page_each_once(served: Served) -> None:
    for _ in range(3):
        await served.submit()
    await served.succeed(await served.claim())
    whole = (await served.client.get(ENTRIES)).json()
    assert whole["nextCursor"] is None
    assert len(whole["entries"]) == 1 + 3 * 2 + 1
    paged: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await served.client.get(ENTRIES, params={"limit": 3, **cursor})).json()
        paged += page["entries"]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert paged == whole["entries"]
    newest = whole["entries"][0]
    assert (newest["kind"], newest["book"], newest["jobId"][:4]) == ("capture", "held", "job_")


async def test_a_csv_has_every_entry_of_the_range(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(billing, "CSV_ROWS", 2)
    for _ in range(2):
        await served.submit()
    answer = await served.client.get(ENTRIES, params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "entries.csv" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    whole = (await served.client.get(ENTRIES)).json()["entries"]
    assert [row["entryId"] for row in rows] == [each["entryId"] for each in whole]
    assert rows[0]["amountUsd"] == "0.020972"
    later = {"format": "csv", "since": "2100-01-01T00:00:00Z"}
    assert len((await served.client.get(ENTRIES, params=later)).text.splitlines()) == 1


async def test_the_head_of_a_csv_reads_no_entry(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    await served.submit()
    whole = await served.client.get(ENTRIES, params={"format": "csv"})

    async def read(*_: object, **__: object) -> None:
        raise AssertionError("the ledger was read")

    monkeypatch.setattr(statements, "page", read)
    head = await served.client.head(ENTRIES, params={"format": "csv"})
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-disposition", "cache-control", "content-length"):
        assert head.headers.get(name) == whole.headers.get(name)


async def test_a_range_of_time_is_half_open(served: Served) -> None:
    await served.submit()
    day = {"since": "2020-01-01T00:00:00+02:00", "until": "2100-01-01T00:00:00Z"}
    assert len((await served.client.get(ENTRIES, params=day)).json()["entries"]) == 3
    assert (await served.client.get(ENTRIES, params={"until": "2020-01-01T00:00:00Z"})).json()["entries"] == []


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({"cursor": "made-up"}, "cursor"),
        ({"cursor": ""}, "cursor"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"format": "xml"}, "format"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-11-23T10:00:00"}, "since"),
        ({"page": "2"}, "page"),
    ],
)
async def test_a_bad_question_is_422_with_its_field(served: Served, asked: dict[str, str], path: str) -> None:
    answer = await served.client.get(ENTRIES, params=asked)
    assert answer.status_code == 422
    assert [field["path"] for field in answer.json()["details"]["fields"]] == [path]


async def test_a_cursor_is_good_for_its_own_list_and_account(served: Served) -> None:
    await served.submit()
    cursor = (await served.client.get(ENTRIES, params={"limit": 1})).json()["nextCursor"]
    assert (await served.client.get(ENTRIES, params={"cursor": cursor})).status_code == 200
    assert (await served.client.get("/api/v1/media/jobs", params={"cursor": cursor})).status_code == 422
    async with await served.another() as other:
        assert (await other.get(ENTRIES, params={"cursor": cursor})).status_code == 422
