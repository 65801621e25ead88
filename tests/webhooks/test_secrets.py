from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from core.clock import now
from core.ids import uuid7
from webhooks.secrets import OVERLAP, SecretMaker, signed_headers

THEN = datetime(2026, 11, 23, 10, tzinfo=UTC)
MAKER = SecretMaker(b"k" * 32)


def test_a_secret_has_the_form_that_standard_webhooks_wants() -> None:
    value = MAKER.secret(uuid7(), 1, THEN, THEN).value
    assert value.startswith("whsec_")
    assert 24 <= len(base64.b64decode(value.removeprefix("whsec_"), validate=True)) <= 64


def test_it_is_the_same_again_and_differs_by_account_generation_and_key() -> None:
    one, two = uuid7(), uuid7()
    values = [
        MAKER.secret(one, 1, THEN, THEN).value,
        MAKER.secret(two, 1, THEN, THEN).value,
        MAKER.secret(one, 2, THEN, THEN).value,
        SecretMaker(b"x" * 32).secret(one, 1, THEN, THEN).value,
    ]
    assert len(set(values)) == len(values)
    assert SecretMaker(b"k" * 32).secret(one, 1, now(), THEN).value == values[0]


def test_for_a_day_after_a_rotation_the_secret_before_is_in_force_too() -> None:
    account = uuid7()
    first = MAKER.secret(account, 1, THEN, THEN)
    assert first.in_force == [first.value]
    second = MAKER.secret(account, 2, THEN, THEN + OVERLAP - timedelta(seconds=1))
    assert second.in_force == [second.value, first.value]
    assert second.previous_until == THEN + timedelta(hours=24)
    assert MAKER.secret(account, 2, THEN, THEN + OVERLAP).in_force == [second.value]


def test_every_secret_signs_and_a_changed_body_does_not_verify() -> None:
    account = uuid7()
    old, new = (MAKER.secret(account, generation, THEN, THEN).value for generation in (1, 2))
    body = '{"type":"job.succeeded","x":"é🦊"}'
    headers = signed_headers([new, old], "msg_1", now(), body)
    for secret in (old, new):
        assert Webhook(secret).verify(body.encode(), headers) == {"type": "job.succeeded", "x": "é🦊"}
        for changed in (body.replace("🦊", "🐺"), body + " "):
            with pytest.raises(WebhookVerificationError):
                Webhook(secret).verify(changed, headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, {**headers, "webhook-id": "msg_2"})
    with pytest.raises(WebhookVerificationError):
        Webhook(MAKER.secret(uuid7(), 1, THEN, THEN).value).verify(body, headers)
