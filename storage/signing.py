"""URLs that open one object to whoever holds them, until they expire."""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote, urlencode

from core.errors import Forbidden, OutputExpired
from storage.base import InvalidKey, check_key

MIN_KEY_BYTES = 32

_LABEL = b"killatamata storage url v1"
_FILENAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,200}")


class InvalidSignature(Forbidden):
    """The URL is not one of ours, or was changed."""

    default_message = "This URL's signature is not valid; use the URL exactly as the job gave it."


class ExpiredSignature(OutputExpired):
    """The URL was ours, and its time is over."""

    default_message = "This URL has expired; read the job again for a fresh one."


def check_link(expires_at: datetime, filename: str) -> None:
    """Refuse what no URL can promise.

    Raises:
        ValueError: `expires_at` has no time zone, or `filename` is empty, longer than 200 characters, or holds a
            slash, a backslash or a control character.
    """
    if expires_at.tzinfo is None:
        raise ValueError("expires_at needs a time zone")
    if not _FILENAME.fullmatch(filename):
        raise ValueError(f"{filename[:80]!r} is no file name")


class UrlSigner:
    """Signs and verifies `{base_url}/objects/<key>?expires=<unix seconds>&filename=…&signature=<HMAC-SHA256, hex>`."""

    def __init__(self, base_url: str, key: bytes) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise ValueError(f"a signing key has at least {MIN_KEY_BYTES} bytes, this one has {len(key)}")
        self._base_url = base_url.rstrip("/")
        self._key = hmac.digest(key, _LABEL, "sha256")

    def url(self, key: str, *, expires_at: datetime, filename: str) -> str:
        """The URL of `key`, good until `expires_at` (rounded up to a second).

        Raises:
            InvalidKey: `key` is no key.
            ValueError: see `check_link`.
        """
        check_key(key)
        check_link(expires_at, filename)
        expires = str(math.ceil(expires_at.timestamp()))
        parameters = {"expires": expires, "filename": filename, "signature": self._sign(key, expires, filename)}
        return f"{self._base_url}/objects/{quote(key)}?{urlencode(parameters)}"

    def verify(self, key: str, params: Mapping[str, str], now: datetime) -> str:
        """The file name under which to serve `key`, when `params` (the decoded query) carry a good signature.

        Raises:
            InvalidSignature: a parameter is missing, or key, expiry or file name are not those that were signed.
            ExpiredSignature: all is well, but for the time.
        """
        expires, filename, signature = (params.get(name, "") for name in ("expires", "filename", "signature"))
        try:
            check_key(key)
            expected = self._sign(key, expires, filename)
        except (InvalidKey, UnicodeEncodeError):
            raise InvalidSignature from None
        if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
            raise InvalidSignature
        if now.timestamp() >= int(expires):
            raise ExpiredSignature
        return filename

    def _sign(self, key: str, expires: str, filename: str) -> str:
        # The parts cannot run into each other: neither key nor expiry as signed holds a line feed, and the name is last.
        return hmac.new(self._key, f"{key}\n{expires}\n{filename}".encode(), "sha256").hexdigest()
