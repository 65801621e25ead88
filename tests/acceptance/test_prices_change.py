"""A new price book while the service runs: new quotes go by it, and what was promised stays as it was."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from billing import price_books
from core.database import Database
from killatamata import prices
from pricing.book import PriceBook
from tests.acceptance.conftest import Newcomer
from tests.acceptance.public_examples import JOBS

CLIPS = [f"https://cdn.example.com/output/clip-{name}.mp4" for name in "ab"]
BODY = {"task": "video.combine", "input": {"videoUrls": CLIPS}}


async def test_a_quote_keeps_its_price_and_new_ones_get_the_new(
    newcomer: Newcomer, whole_fleet: None, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price_books, "_FRESH_SECONDS", 0.0)
    caller = await newcomer()
    quoted = (await caller.http.post("/api/v1/media/quotes", json=BODY)).json()
    first = (await caller.http.post(JOBS, json=BODY)).json()

    text = Path(prices.__file__).parents[1].joinpath("pricing", "book.toml").read_text("utf-8")
    file = tmp_path / "dearer.toml"
    file.write_text(text.replace("2026-11-2", "2027-01-1").replace('usd_per_clip = "0.005"', 'usd_per_clip = "0.05"'))
    await prices.publish(database, file)

    kept = (await caller.http.post(JOBS, json={**BODY, "quoteToken": quoted["quoteToken"]})).json()["billing"]
    assert (kept["amountMicros"], kept["priceBookVersion"]) == (10_000, "2026-11-2")
    new = (await caller.http.post(JOBS, json=BODY)).json()["billing"]
    assert (new["amountMicros"], new["priceBookVersion"]) == (100_000, "2027-01-1")
    held = (await caller.http.get(JOBS, params={"jobId": first["jobId"]})).json()["billing"]
    assert (held["amountMicros"], held["priceBookVersion"]) == (10_000, "2026-11-2")


async def test_a_quote_from_before_a_task_existed_keeps_its_price(
    newcomer: Newcomer, whole_fleet: None, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price_books, "_FRESH_SECONDS", 0.0)
    caller = await newcomer()
    rates = {"usd_per_megapixel": "0.07", "minimum_usd": "0.01", "high_detail_factor": "1.5"}
    row = {"version": "2026-11-1", "image.generate": rates}
    await database.execute("INSERT INTO price_book (version, body) VALUES ($1, $2)", "2026-11-1", row)
    body = {"task": "image.generate", "input": {"prompt": "a fox", "width": 1024, "height": 1024}}
    quoted = (await caller.http.post("/api/v1/media/quotes", json=body)).json()
    assert quoted["billing"]["priceBookVersion"] == "2026-11-1"
    async with database.transaction() as connection:
        await price_books.publish(connection, PriceBook.built_in())
    made = (await caller.http.post(JOBS, json={**body, "quoteToken": quoted["quoteToken"]})).json()["billing"]
    assert made["amountMicros"] == round(Decimal("1.048576") * Decimal("0.07") * 10**6)
    assert (await caller.http.post(JOBS, json=body)).json()["billing"]["amountMicros"] == 20_972
