"""The secret that signs an account's webhooks, and the signature (Standard Webhooks, symmetric, version v1).

A secret is derived from the service's own key, the account and a generation: no table holds it, and a copy of the database
signs nothing.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from standardwebhooks import Webhook

OVERLAP = timedelta(hours=24)
"""For how long after a rotation the secret before it signs too."""

_PREFIX = "whsec_"
_LABEL = b"webhook secret"


@dataclass(frozen=True)
class Secret:
    """An account's secret. `previous_until` is when the one before it stops to sign; None when it does not sign now."""

    value: str
    rotated_at: datetime
    previous: str | None = None
    previous_until: datetime | None = None

    @property
    def in_force(self) -> list[str]:
        """What signs a notice now, the newest first."""
        return [self.value] if self.previous is None else [self.value, self.previous]


class SecretMaker:
    """Derives secrets from the service's key (at least 32 bytes); the same key always gives the same secrets."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, _LABEL, "sha256")

    def secret(self, account_id: UUID, generation: int, rotated_at: datetime, instant: datetime) -> Secret:
        """The account's secret as it stands at `instant`."""
        value, until = self._derive(account_id, generation), rotated_at + OVERLAP
        if generation == 1 or instant >= until:
            return Secret(value, rotated_at)
        return Secret(value, rotated_at, self._derive(account_id, generation - 1), until)

    def _derive(self, account_id: UUID, generation: int) -> str:
        digest = hmac.digest(self._key, account_id.bytes + generation.to_bytes(8, "big"), "sha256")
        return _PREFIX + base64.b64encode(digest).decode()


def signed_headers(secrets: Sequence[str], message_id: str, instant: datetime, body: str) -> dict[str, str]:
    """The headers of a notice: its id, the instant of this try, and one signature per secret."""
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(instant.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, instant, body) for secret in secrets),
    }
