from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from api.event_tokens import MAX_CHARACTERS, EventClaim, EventTokens
from core.errors import Unauthorized
from core.ids import uuid7
from pricing.tokens import QuoteTokens

NOW = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)
JOB = uuid7()


@pytest.fixture
def tokens() -> EventTokens:
    return EventTokens(b"k" * 32)


def signed(tokens: EventTokens, seconds: float = 10) -> str:
    return tokens.sign(JOB, "abcdefgh", NOW + timedelta(seconds=seconds))


def test_a_token_says_what_was_signed_until_it_expires(tokens: EventTokens) -> None:
    token = signed(tokens)
    assert len(token) < MAX_CHARACTERS
    assert tokens.read(token, NOW + timedelta(seconds=9)) == EventClaim(JOB, "abcdefgh")
    with pytest.raises(Unauthorized, match="expired"):
        tokens.read(token, NOW + timedelta(seconds=10))


def test_an_altered_token_opens_nothing(tokens: EventTokens) -> None:
    token = signed(tokens)
    altered = [
        token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :] for place in range(len(token))
    ]
    # The last character of base64 has bits that say nothing: all spellings of it are the same signature.
    for each in [*altered[:-1], token[:-2], token + "A" * 3, "", ".", "é", token * 9, "\0", token[::-1]]:
        with pytest.raises(Unauthorized, match="altered"):
            tokens.read(each, NOW)


def test_what_another_key_or_for_another_purpose_signed_opens_nothing(tokens: EventTokens) -> None:
    foreign = signed(EventTokens(b"x" * 32))
    quote = QuoteTokens(b"k" * 32).sign(
        account_id="a", task="t", input_hash="h", seed=None, amount_micros=1, book_version="b", expires_at=NOW
    )
    for token in (foreign, quote):
        with pytest.raises(Unauthorized, match="altered"):
            tokens.read(token, NOW)
