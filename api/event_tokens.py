"""Tokens of event streams: one job's events, for a browser's EventSource, which can send no key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

from itsdangerous import BadData, URLSafeSerializer

from core.errors import Unauthorized

MAX_CHARACTERS = 256


@dataclass(frozen=True)
class EventClaim:
    """Whose events a token opens, and the key that gave it out: the token ends with that key."""

    job_id: UUID
    key_prefix: str


class EventTokens:
    """Signs and reads tokens with a secret `key`."""

    def __init__(self, key: bytes) -> None:
        self._serializer = URLSafeSerializer(
            key, salt="event-token", signer_kwargs={"digest_method": sha256, "key_derivation": "hmac"}
        )

    def sign(self, job_id: UUID, key_prefix: str, expires_at: datetime) -> str:
        """A URL-safe token; `expires_at` counts in whole seconds."""
        return self._serializer.dumps([job_id.hex, key_prefix, int(expires_at.timestamp())])

    def read(self, token: str, now: datetime) -> EventClaim:
        """What `token` opens.

        Raises:
            Unauthorized: not signed by us, altered, or too old.
        """
        if len(token) > MAX_CHARACTERS or not token.isascii():
            raise _unreadable()
        try:
            job_id, key_prefix, expiry = self._serializer.loads(token)
        except BadData:
            raise _unreadable() from None
        if now >= datetime.fromtimestamp(expiry, UTC):
            raise Unauthorized("This token has expired; send an API key instead, or read the job with one.")
        return EventClaim(UUID(hex=job_id), key_prefix)


def _unreadable() -> Unauthorized:
    return Unauthorized("This token was altered or is not one of ours; use eventsUrl exactly as the submit gave it.")
