"""Every media request of the public documentation is accepted, becomes what it should, and costs what it should."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.app import OPERATIONS
from billing import wallets
from core.database import Database
from core.money import usd
from jobs import pools
from killatamata.examples import all_examples
from tasks.examples import EXAMPLES as SCHEMA_EXAMPLES
from tasks.registry import TASKS
from tests.acceptance.conftest import CREDIT, Cdn, Newcomer
from tests.acceptance.public_examples import BODIES, CDN, EXAMPLES, JOBS, PLACEHOLDER, Example, filled

REVOKED = 9
LABELLED = (8, 27)
PENDING = {
    1: "signing in with Google",
    2: "signing in with Google in a browser",
    3: "a key for whoever signs in with Google",
    4: "linking a device",
    5: "paying by card",
    6: "claiming what was paid by card",
    7: "paying with x402",
    10: "approving a device",
    11: "asking whether a device was approved",
}
"""Bodies of the documentation that nothing answers yet, by their number."""

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=[f"{each.number}-{each.task}" for each in EXAMPLES])


def test_no_media_request_of_the_documentation_is_missing() -> None:
    media = [number for number, each in enumerate(BODIES) if each["path"] == JOBS]
    assert [example.number for example in EXAMPLES] == media
    assert [example.task for example in EXAMPLES] == [BODIES[number]["body"]["task"] for number in media]
    assert {example.task for example in EXAMPLES} == set(TASKS)


def test_the_examples_of_the_schemas_are_those_of_the_documentation() -> None:
    seen: dict[str, list[str]] = {}
    for example in EXAMPLES:
        inputs = seen.setdefault(example.task, [])
        text = json.dumps(example.body["input"])
        if text not in inputs:
            inputs.append(text)
    for task, inputs in SCHEMA_EXAMPLES.items():
        assert len(inputs) == len(seen[task])
        for given, documented in zip(inputs, seen[task], strict=True):
            pixel = json.dumps(given)
            for picture in (each["dataBase64"] for each in _inline(given)):
                pixel = pixel.replace(picture, PLACEHOLDER)
            assert pixel == documented


def _inline(value: Any) -> list[dict[str, str]]:
    match value:
        case {"dataBase64": _}:
            return [value]
        case dict():
            return [found for each in value.values() for found in _inline(each)]
        case list():
            return [found for each in value for found in _inline(each)]
        case _:
            return []


@each_example
@pytest.mark.parametrize("data_uri", [False, True])
async def test_it_is_accepted(
    example: Example, data_uri: bool, newcomer: Newcomer, whole_fleet: None, cdn: Cdn, database: Database
) -> None:
    caller = await newcomer()
    body = filled(example.body, cdn.url, data_uri=data_uri)
    answer = await caller.http.post(JOBS, json=body, headers=example.headers)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["task"], job["status"]) == (example.task, "queued")
    billing = job["billing"]
    assert (billing["amountMicros"], billing["state"]) == (example.micros, "held")
    assert billing["balanceAfterUsd"] == usd(CREDIT - example.micros)
    assert sum(line["amountMicros"] for line in billing["lineItems"]) == example.micros
    effective = job["effectiveInput"]
    if "seed" not in example.same:
        assert 0 <= effective.pop("seed") < 2**31
    assert effective == example.expected(cdn.url)
    assert tuple(change["field"] for change in job["inputAdjustments"]) == example.adjusted
    assert job["warnings"] == []
    balance = await wallets.balance(database, caller.account_id)
    assert (balance.available, balance.held) == (CREDIT - example.micros, example.micros)
    assert cdn.asked == [], "a URL is fetched when the job runs, never at submit"


@each_example
async def test_its_quote_is_the_same_and_can_be_used(
    example: Example, newcomer: Newcomer, whole_fleet: None, cdn: Cdn
) -> None:
    caller = await newcomer()
    body = filled(example.body, cdn.url)
    quoted = await caller.http.post("/api/v1/media/quotes", json=body)
    assert quoted.status_code == 200, quoted.text
    assert quoted.json()["billing"]["amountMicros"] == example.micros
    answer = await caller.http.post(JOBS, json={**body, "quoteToken": quoted.json()["quoteToken"]})
    assert answer.status_code == 202, answer.text
    assert answer.json()["billing"]["amountMicros"] == example.micros
    assert answer.json()["effectiveInput"] == quoted.json()["effectiveInput"]


@each_example
async def test_the_same_request_with_its_key_again_is_the_same_job(
    example: Example, newcomer: Newcomer, whole_fleet: None, cdn: Cdn, database: Database
) -> None:
    caller = await newcomer()
    body = filled(example.body, cdn.url)
    headers = {"X-Idempotency-Key": "job-001"}
    first = await caller.http.post(JOBS, json=body, headers=headers)
    again = await caller.http.post(JOBS, json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202), again.text
    assert again.json()["jobId"] == first.json()["jobId"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await wallets.balance(database, caller.account_id)).held == example.micros


@pytest.mark.parametrize(
    "example", [each for each in EXAMPLES if each.task != "image.generate"], ids=lambda each: each.task
)
async def test_without_its_engine_it_is_quoted_and_not_accepted(
    example: Example, newcomer: Newcomer, cdn: Cdn, database: Database
) -> None:
    await pools.declare(database, frozenset({"qwen-image"}))
    caller = await newcomer()
    body = filled(example.body, cdn.url)
    quoted = await caller.http.post("/api/v1/media/quotes", json=body)
    assert quoted.json()["billing"]["amountMicros"] == example.micros
    answer = await caller.http.post(JOBS, json=body)
    assert answer.status_code == 503
    assert answer.json()["error"] == "task_unavailable"
    assert "Retry-After" in answer.headers
    balance = await wallets.balance(database, caller.account_id)
    assert (balance.available, balance.held) == (CREDIT, 0)


@pytest.mark.parametrize("number", LABELLED)
async def test_a_key_is_made_by_its_label(number: int, newcomer: Newcomer) -> None:
    caller = await newcomer()
    answer = await caller.http.post(BODIES[number]["path"], json=BODIES[number]["body"])
    assert answer.status_code == 201
    assert answer.json()["label"] == BODIES[number]["body"]["label"]


async def test_a_key_is_revoked_by_its_prefix(newcomer: Newcomer) -> None:
    caller = await newcomer()
    made = (await caller.http.post("/api/v1/keys", json={"label": "spare"})).json()
    documented = BODIES[REVOKED]
    answer = await caller.http.post(documented["path"], json={**documented["body"], "keyPrefix": made["keyPrefix"]})
    assert answer.status_code == 200, answer.text
    gone = await caller.http.get("/api/v1/balance", headers={"x-api-key": made["apiKey"]})
    assert gone.status_code == 401


async def test_no_request_of_the_documentation_is_forgotten(newcomer: Newcomer) -> None:
    tested = {each.number for each in EXAMPLES} | {REVOKED, *LABELLED}
    assert not tested & set(PENDING)
    assert tested | set(PENDING) == set(range(len(BODIES)))
    paths = {path for each in OPERATIONS for path in (each.path, *each.aliases)}
    caller = await newcomer()
    for number, what in PENDING.items():
        documented = BODIES[number]
        answer = await caller.http.post(documented["path"], json=documented["body"])
        if documented["path"] in paths:
            assert answer.status_code == 422, f"{what} has come: test it"
            assert [each["path"] for each in answer.json()["details"]["fields"]] == ["idToken"]
        else:
            assert answer.status_code == 404, f"{what} has come: test it"


def test_the_table_of_all_examples_has_their_prices() -> None:
    rows = [(row["task"], row["price"]) for row in all_examples()]
    assert rows == [(each.task, f"${usd(each.micros)}") for each in EXAMPLES]
    assert CDN not in str(rows)
