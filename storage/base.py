"""What a store of artifacts can do, whichever one it is, and what its keys may look like.

A key names one object: `jobs/<job>/<fence>/image.webp`, `in/<sha256>`. Every method blocks; call them from threads.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

MAX_KEY_CHARACTERS = 512
"""Of a whole key; one part of it has at most 128."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")
_MIME_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,63}")


class InvalidKey(ValueError):
    """The key (or prefix) is no name for an object."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"{self.key[:80]!r} is no key: join parts of A-Z, a-z, 0-9, '.', '_', '-' that begin with a letter or digit "
            f"by '/' (at most {MAX_KEY_CHARACTERS} characters, 128 a part); a prefix ends with '/'"
        )


class MissingObject(LookupError):
    """No object has this key."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"no object is stored under {self.key!r}: it was deleted, or never put"


class StoreUnavailable(Exception):
    """The store of objects does not answer, or refuses what it must allow: not the caller's fault, and maybe passing.

    `reason` is the code that the server gave, or the kind of failure on the way to it.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason, advice)
        self.reason = reason
        self.advice = advice

    def __str__(self) -> str:
        return f"the object store does not serve us ({self.reason}): {self.advice}"


@dataclass(frozen=True)
class Artifact:
    """One stored object: its key, the SHA-256 of its content (lower-case hex), its size and its type."""

    key: str
    sha256: str
    bytes: int
    mime_type: str


class Store(Protocol):
    """Objects by key. Whatever a reader gets is one whole object, also while that key is being written.

    Every method, and reading from an opened stream, raises `StoreUnavailable` when the store is elsewhere and fails.
    """

    def put(self, key: str, data: bytes | Path | BinaryIO, mime_type: str) -> Artifact:
        """Store `data` (bytes, a file's path, or a binary stream read to its end), in place of what was there.

        Raises:
            InvalidKey: `key` is no key.
            ValueError: `mime_type` is not `type/subtype` in lower case.
            TypeError: `data` is neither.
        """

    def read(self, key: str) -> bytes:
        """The whole content.

        Raises:
            MissingObject: nothing is there.
        """

    def open(self, key: str) -> BinaryIO:
        """The content as a stream, to be closed by the caller; a later put or delete does not disturb it.

        Raises:
            MissingObject: nothing is there.
        """

    def stat(self, key: str) -> Artifact | None:
        """What is stored under `key`, or None."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when it is not there."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove every object whose key begins with `prefix`: whole parts, each followed by `/`."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that begin with `prefix` (`""`, or whole parts, each followed by `/`), in no order."""

    def url(self, key: str, *, expires_at: datetime, filename: str) -> str:
        """A URL that serves the object as `filename`, without a credential, until `expires_at`."""


def is_key(key: str) -> bool:
    """Whether `key` can name an object: no empty part, no `..`, no foreign character, not too long."""
    return len(key) <= MAX_KEY_CHARACTERS and _KEY.fullmatch(key) is not None


def check_key(key: str) -> None:
    """Refuse what is no key.

    Raises:
        InvalidKey: see `is_key`.
    """
    if not is_key(key):
        raise InvalidKey(key)


def check_prefix(prefix: str) -> None:
    """Refuse what is no prefix; `""` is none.

    Raises:
        InvalidKey: not whole parts, each followed by `/`.
    """
    if not prefix.endswith("/"):
        raise InvalidKey(prefix)
    check_key(prefix[:-1])


def check_mime_type(mime_type: str) -> None:
    """Refuse what could not stand in a Content-Type header.

    Raises:
        ValueError: not `type/subtype` in lower case.
    """
    if not _MIME_TYPE.fullmatch(mime_type):
        raise ValueError(f"{mime_type[:80]!r} is no media type such as image/webp")


def open_source(data: bytes | Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    """What `Store.put` was given, as a stream; only what is opened here is closed at the end.

    Raises:
        TypeError: `data` is neither of the three.
        OSError: the file cannot be opened.
    """
    if isinstance(data, bytes):
        return io.BytesIO(data)
    if isinstance(data, Path):
        return data.open("rb")
    if not hasattr(data, "read"):
        raise TypeError(f"put takes bytes, a Path or a binary stream, not {type(data).__name__}")
    return nullcontext(data)
