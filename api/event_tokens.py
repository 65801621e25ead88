"""Tokens of event streams: one job's events, for a browser's EventSource, which can send no key."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from itsdangerous import BadData, Serializer, URLSafeSerializer
from itsdangerous.encoding import base64_encode
from itsdangerous.signer import SigningAlgorithm

from core.errors import Unauthorized

MAX_CHARACTERS = 256


@dataclass(frozen=True)
class EventClaim:
    """Whose events a token opens, and the key that gave it out: the token ends with that key."""

    job_id: UUID
    key_prefix: str


class _Sha256(SigningAlgorithm):
    """HMAC-SHA256 in one call."""

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        return hmac.digest(key, value, "sha256")


class _Uncompressed(URLSafeSerializer):
    """Reads compressed payloads too, but makes none: these are short, and to try costs more than to sign."""

    def dump_payload(self, obj: Any) -> bytes:
        return base64_encode(Serializer.dump_payload(self, obj))


class EventTokens:
    """Signs and reads tokens with a secret `key`."""

    def __init__(self, key: bytes) -> None:
        self._serializer = _Uncompressed(
            hmac.digest(key, b"event-token", "sha256"),
            salt="event-token",
            signer_kwargs={"key_derivation": "none", "algorithm": _Sha256()},
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
