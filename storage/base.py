"""What a store of artifacts can do, whichever one it is, and what its keys may look like.

A key names one object: `jobs/<job>/<fence>/image.webp`, `in/<sha256>`. Every method blocks; call them from threads.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

MAX_KEY_CHARACTERS = 512
"""Of a whole key; one part of it has at most 128."""

_CHUNK_BYTES = 1 << 20
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
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


class ObjectExists(Exception):
    """An object has this key already, and was not to be replaced."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"an object is stored under {self.key!r} already: delete it first, or take another key"


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


@dataclass(frozen=True)
class UploadPromise:
    """What an upload URL was signed for: the type, the size, the SHA-256 (lower-case hex) if known, and the end."""

    mime_type: str
    bytes: int
    sha256: str | None
    expires_at: datetime


class Draft(ABC):
    """An object being written. Nothing of it is stored before `keep`, and nothing else is left after `close`."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._file = file

    @property
    def sha256(self) -> str:
        """Of what was written so far, in lower-case hex."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Add to the content."""
        self._digest.update(chunk)
        with disk_faults():
            self._file.write(chunk)
        self.size += len(chunk)

    def fill(self, source: BinaryIO) -> None:
        """Add what `source` gives until its end."""
        while chunk := source.read(_CHUNK_BYTES):
            self.write(chunk)

    @abstractmethod
    def keep(self, *, once: bool = False) -> Artifact:
        """Store what was written; nothing may follow but `close`. `once` is that of `Store.put`."""

    def close(self) -> None:
        """Forget the draft, unless it was kept."""
        self._file.close()


class Store(Protocol):
    """Objects by key. Whatever a reader gets is one whole object, also while that key is being written.

    Every method, and every use of a stream or draft, raises `StoreUnavailable` when the store fails: its server does not
    answer, its disk is full. What its URLs serve should never be replaced: a download reads type, size and digest first.
    """

    def put(self, key: str, data: bytes | Path | BinaryIO, mime_type: str, *, once: bool = False) -> Artifact:
        """Store `data` (bytes, a file's path, or a binary stream read to its end), in place of what was there.

        With `once` nothing is replaced. An S3 may then refuse even what this very call has just stored, when the first
        answer got lost: compare digests before you believe it was somebody else.

        Raises:
            InvalidKey: `key` is no key.
            ObjectExists: with `once`, something is there.
            ValueError: `mime_type` is not `type/subtype` in lower case.
            TypeError: `data` is neither.
        """

    def draft(self, key: str, mime_type: str) -> Draft:
        """An object to be written piece by piece, and to be closed by the caller.

        Raises:
            InvalidKey: `key` is no key.
            ValueError: `mime_type` is not `type/subtype` in lower case.
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

    def open_range(self, key: str, start: int, stop: int) -> BinaryIO:
        """The bytes from `start` up to, and without, `stop` as a stream like that of `open`; fewer where the object ends.

        Raises:
            MissingObject: nothing is there.
            ValueError: not 0 ≤ `start` < `stop`.
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
        """A URL of our own ingress that serves the object as `filename`, without a credential, until `expires_at`.

        Raises:
            InvalidKey: `key` is no key.
            ValueError: `expires_at` has no time zone, `filename` is none, or the store was opened without a base URL.
        """

    def verify(self, key: str, params: Mapping[str, str], now: datetime) -> str:
        """The file name under which to serve `key`, when `params` (a decoded query) carry a signature of `url`.

        Raises:
            InvalidSignature: a parameter is missing, or key, expiry or file name are not those that were signed.
            ExpiredSignature: all is well, but for the time.
        """

    def direct_url(self, key: str, *, expires_at: datetime, filename: str) -> str | None:
        """A URL at the server behind the store, like that of `url`; None unless the operator sends callers there."""

    def key_of(self, url: str) -> str | None:
        """The key of an object URL of this ingress, signed or not; None for every other URL."""

    def upload_url(self, key: str, *, mime_type: str, bytes: int, sha256: str | None, expires_at: datetime) -> str:  # noqa: A002
        """A URL of our own ingress that takes one PUT of just that content, without a credential, until `expires_at`.

        Raises:
            InvalidKey: `key` is no key.
            ValueError: no type, no size of 1 or more, no SHA-256, no time zone, or no base URL of the store.
        """

    def verify_upload(self, key: str, params: Mapping[str, str], now: datetime) -> UploadPromise:
        """What was promised for `key`, when `params` (a decoded query) carry a signature of `upload_url`.

        Raises:
            InvalidSignature: a parameter is missing, or not what was signed.
            UploadExpired: all is well, but for the time.
        """


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


def check_range(start: int, stop: int) -> None:
    """Refuse what is no range of bytes.

    Raises:
        ValueError: not 0 ≤ `start` < `stop`.
    """
    if not 0 <= start < stop:
        raise ValueError(f"a range begins at 0 or later and ends after its beginning, not {start} to {stop}")


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


@contextmanager
def disk_faults() -> Iterator[None]:
    """What ails this machine's disk, and not the caller, as `StoreUnavailable`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise
        reason = errno.errorcode[error.errno]
        raise StoreUnavailable(reason, "free or mend the disks of the data folder and of temporary files") from error
