from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import QuoteExpired, QuoteMismatch
from pricing.tokens import QuoteClaim, QuoteTokens
from tasks.base import Prepared
from tasks.registry import task

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
TOKENS = QuoteTokens(b"k" * 32)
TASK = task("image.generate")


def prepare(**fields: Any) -> Prepared:
    return TASK.prepare({"prompt": "a fox", **fields})


def token_for(prepared: Prepared, **changes: Any) -> str:
    claim: dict[str, Any] = {
        "account_id": "acct_1",
        "task": TASK.name,
        "input_hash": TASK.hash_input(prepared.effective_input, prepared.seed_drawn),
        "seed": prepared.effective_input["seed"] if prepared.seed_drawn else None,
        "amount_micros": 20972,
        "book_version": "2026-11-2",
        "expires_at": NOW + timedelta(minutes=15),
    }
    return TOKENS.sign(**{**claim, **changes})


def claim_for(prepared: Prepared) -> QuoteClaim:
    return TOKENS.read(token_for(prepared), NOW)


def test_a_token_carries_its_claim() -> None:
    token = TOKENS.sign(
        account_id="acct_1",
        task="image.generate",
        input_hash="ab" * 32,
        seed=7,
        amount_micros=20972,
        book_version="2026-11-2",
        expires_at=NOW,
    )
    assert TOKENS.read(token, NOW - timedelta(seconds=1)) == QuoteClaim(
        "acct_1", "image.generate", "ab" * 32, 7, 20972, "2026-11-2", NOW
    )
    assert len(token) < 300
    assert token.replace(".", "").replace("-", "").replace("_", "").isalnum()


def test_a_token_expires() -> None:
    token = token_for(prepare())
    assert TOKENS.read(token, NOW + timedelta(minutes=14, seconds=59)).amount_micros == 20972
    for late in (timedelta(minutes=15), timedelta(days=400)):
        with pytest.raises(QuoteExpired):
            TOKENS.read(token, NOW + late)


@pytest.mark.parametrize(
    "token",
    ["", ".", "a.b", "é.x", "\ud800", "x" * 10_000_000, "." * 1024, "W10.AAAA"],
    ids=lambda value: ascii(value)[:9],
)
def test_strange_tokens(token: str) -> None:
    with pytest.raises(QuoteMismatch, match="altered or is not one of ours"):
        TOKENS.read(token, NOW)


@given(place=st.integers(0, 10_000), character=st.sampled_from("ABCxyz019-_."))
def test_one_changed_character_is_noticed(place: int, character: str) -> None:
    token = token_for(prepare(seed=1))
    place %= len(token) - 1
    altered = token[:place] + character + token[place + 1 :]
    if altered != token:
        with pytest.raises(QuoteMismatch):
            TOKENS.read(altered, NOW)


def test_another_key_reads_nothing() -> None:
    with pytest.raises(QuoteMismatch):
        QuoteTokens(b"x" * 32).read(token_for(prepare()), NOW)


def test_a_drawn_seed_is_the_quoted_one() -> None:
    quoted = prepare()
    claim = claim_for(quoted)
    used = claim.apply("acct_1", TASK, prepare())
    assert used.effective_input == quoted.effective_input
    assert used.seed_drawn


def test_the_quotes_own_effective_input_may_be_sent_back() -> None:
    quoted = prepare(width=1000, height=1000)
    again = TASK.prepare(quoted.effective_input)
    assert claim_for(quoted).apply("acct_1", TASK, again).effective_input == quoted.effective_input


def test_a_given_seed_must_stay() -> None:
    claim = claim_for(prepare(seed=5))
    assert claim.seed is None
    same = prepare(seed=5)
    assert claim.apply("acct_1", TASK, same) == same
    for other in (prepare(seed=6), prepare()):
        with pytest.raises(QuoteMismatch):
            claim.apply("acct_1", TASK, other)


def test_a_quote_is_for_one_account_task_and_input() -> None:
    quoted = prepare()
    claim = claim_for(quoted)
    seed = quoted.effective_input["seed"]
    for account, prepared in (
        ("acct_2", prepare()),
        ("acct_1", prepare(highDetail=True)),
        ("acct_1", prepare(seed=(seed + 1) % 2**31)),
    ):
        with pytest.raises(QuoteMismatch):
            claim.apply(account, TASK, prepared)
    foreign = TOKENS.read(token_for(quoted, task="image.edit"), NOW)
    with pytest.raises(QuoteMismatch):
        foreign.apply("acct_1", TASK, prepare())
