"""URLs that open one object, or one upload, to whoever holds them, until they expire; and URLs of ours known again."""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, unquote, urlencode, urlsplit

from core.errors import Forbidden, OutputExpired, UploadExpired
from storage.base import InvalidKey, UploadPromise, check_key, check_mime_type, is_key

MIN_KEY_BYTES = 32

_READING = b"killatamata storage url v1"
_WRITING = b"killatamata upload url v1"
_FILENAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PORTS = {"http": 80, "https": 443}


class InvalidSignature(Forbidden):
    """The URL is not one of ours, or was changed."""

    default_message = "This URL's signature is not valid; use the URL exactly as it was given to you."


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


def attachment(filename: str) -> str:
    """The Content-Disposition that saves a download as `filename` (RFC 6266)."""
    quoted = quote(filename)
    return f'attachment; filename="{filename}"' if quoted == filename else f"attachment; filename*=utf-8''{quoted}"


class UrlSigner:
    """Signs and verifies the URLs of the ingress at `base_url`; without a `key` it can do neither.

    `{base_url}/objects/<key>?expires=<unix seconds>&filename=…&signature=<HMAC-SHA256, hex>` serves an object, and
    `{base_url}/uploads/<key>?expires=…&bytes=…&sha256=<hex, or nothing>&mimeType=…&signature=…` takes one.
    """

    def __init__(self, base_url: str, key: bytes | None) -> None:
        if key is not None and len(key) < MIN_KEY_BYTES:
            raise ValueError(f"a signing key has at least {MIN_KEY_BYTES} bytes, this one has {len(key)}")
        self._base_url = base_url.rstrip("/")
        self._key = key

    def url(self, key: str, *, expires_at: datetime, filename: str) -> str:
        """See `Store.url`; the expiry is rounded up to a second."""
        check_key(key)
        check_link(expires_at, filename)
        return self._signed("objects", _READING, key, {"expires": _seconds(expires_at), "filename": filename})

    def verify(self, key: str, params: Mapping[str, str], now: datetime) -> str:
        """See `Store.verify`."""
        expires, filename = self._verified(_READING, key, params, "expires", "filename")
        if now.timestamp() >= int(expires):
            raise ExpiredSignature
        return filename

    def key_of(self, url: str) -> str | None:
        """See `Store.key_of`. Scheme, host, port and path are compared, however they are written."""
        base, found = _place(self._base_url), _place(url)
        if base is None or found is None or base[:-1] != found[:-1]:
            return None
        prefix = f"{base[-1]}/objects/"
        key = found[-1].removeprefix(prefix)
        return key if found[-1].startswith(prefix) and is_key(key) else None

    def upload_url(self, key: str, *, mime_type: str, bytes: int, sha256: str | None, expires_at: datetime) -> str:  # noqa: A002
        """See `Store.upload_url`; the expiry is rounded up to a second."""
        check_key(key)
        check_mime_type(mime_type)
        if bytes < 1:
            raise ValueError(f"an upload has at least 1 byte, not {bytes}")
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256[:80]!r} is no SHA-256 in lower-case hex")
        if expires_at.tzinfo is None:
            raise ValueError("expires_at needs a time zone")
        promise = {
            "expires": _seconds(expires_at),
            "bytes": str(bytes),
            "sha256": sha256 or "",
            "mimeType": mime_type,
        }
        return self._signed("uploads", _WRITING, key, promise)

    def verify_upload(self, key: str, params: Mapping[str, str], now: datetime) -> UploadPromise:
        """See `Store.verify_upload`."""
        expires, size, sha256, mime_type = self._verified(
            _WRITING, key, params, "expires", "bytes", "sha256", "mimeType"
        )
        promise = UploadPromise(mime_type, int(size), sha256 or None, datetime.fromtimestamp(int(expires), UTC))
        if now >= promise.expires_at:
            raise UploadExpired
        return promise

    def _signed(self, folder: str, label: bytes, key: str, values: Mapping[str, str]) -> str:
        signature = self._sign(label, key, *values.values())
        return f"{self._base_url}/{folder}/{quote(key)}?{urlencode({**values, 'signature': signature})}"

    def _verified(self, label: bytes, key: str, params: Mapping[str, str], *names: str) -> list[str]:
        values = [params.get(name, "") for name in names]
        try:
            check_key(key)
            expected = self._sign(label, key, *values)
        except (InvalidKey, UnicodeEncodeError):
            raise InvalidSignature from None
        if not hmac.compare_digest(expected.encode(), params.get("signature", "").encode(errors="replace")):
            raise InvalidSignature
        return values

    def _sign(self, label: bytes, *values: str) -> str:
        # The values cannot run into each other: as signed, none of them holds a line feed.
        if self._key is None:
            raise ValueError("this store was opened without a base URL: it makes and reads no URLs")
        key = hmac.digest(self._key, label, "sha256")
        return hmac.new(key, "\n".join(values).encode(), "sha256").hexdigest()


def _seconds(expires_at: datetime) -> str:
    return str(math.ceil(expires_at.timestamp()))


def _place(url: str) -> tuple[str, str, int, str] | None:
    """Scheme, host, port and decoded path of an HTTP URL without credentials."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not host or "@" in parts.netloc:
        return None
    return parts.scheme, host, _PORTS[parts.scheme] if port is None else port, unquote(parts.path)
