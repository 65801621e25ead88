"""Artifacts in a folder of this machine.

An object is two files in the folder that its key names: the content, `image.webp@<token>`, and the record that points
at it, `image.webp@json`. Replacing the record is the one step that makes an object appear or change, so a writer that
dies leaves the old object or none. `@` is in no key, so no two keys meet. A lock file keeps writers (of all processes)
from each other while they move finished files into place; contents are written before, outside the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from storage.base import Artifact, MissingObject, check_key, check_mime_type, check_prefix, open_source
from storage.signing import UrlSigner

_CHUNK_BYTES = 1 << 20
_ABANDONED_SECONDS = 24 * 3600
_RECORD = "@json"


class LocalStore:
    """A `Store` in the folder `root` (made private, 0700; files 0600), with URLs signed by `key` (32 bytes or more)."""

    def __init__(self, root: Path, base_url: str, key: bytes) -> None:
        self._objects = root / "objects"
        self._incoming = root / "incoming"
        self._lock_file = root / "lock"
        self._signer = UrlSigner(base_url, key)
        for folder in (root, self._objects, self._incoming):
            _make_private(folder)
        self._remove_abandoned()

    def put(self, key: str, data: bytes | Path | BinaryIO, mime_type: str) -> Artifact:
        """See `Store.put`."""
        check_key(key)
        check_mime_type(mime_type)
        with ExitStack() as cleanup, open_source(data) as source:
            token = secrets.token_hex(16)
            content, record = self._incoming / token, self._incoming / (token + _RECORD)
            for path in (content, record):
                cleanup.callback(path.unlink, missing_ok=True)
            sha256, size = _write(content, source)
            artifact = Artifact(key, sha256, size, mime_type)
            fields = {"token": token, "sha256": sha256, "bytes": size, "mimeType": mime_type}
            _write(record, io.BytesIO(json.dumps(fields).encode()))
            with self._locked(fcntl.LOCK_EX):
                old = self._find(key)
                _make_private(self._content(key, token).parent)
                content.replace(self._content(key, token))
                record.replace(self._record(key))
                _sync(self._record(key).parent)
                if old is not None:
                    old[1].unlink(missing_ok=True)
        return artifact

    def read(self, key: str) -> bytes:
        """See `Store.read`."""
        with self.open(key) as stream:
            return stream.read()

    def open(self, key: str) -> BinaryIO:
        """See `Store.open`."""
        with self._locked(fcntl.LOCK_SH):
            return self.path(key).open("rb")

    def stat(self, key: str) -> Artifact | None:
        """See `Store.stat`."""
        found = self._find(key)
        return None if found is None else found[0]

    def path(self, key: str) -> Path:
        """The file that holds the content now; a later put or delete of `key` removes it.

        Raises:
            MissingObject: nothing is there.
        """
        found = self._find(key)
        if found is None:
            raise MissingObject(key)
        return found[1]

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        with self._locked(fcntl.LOCK_EX):
            found = self._find(key)
            if found is not None:
                self._record(key).unlink()
                found[1].unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        """See `Store.delete_prefix`."""
        check_prefix(prefix)
        doomed = self._incoming / secrets.token_hex(16)
        with self._locked(fcntl.LOCK_EX):
            if not (self._objects / prefix).is_dir():
                return
            (self._objects / prefix).rename(doomed)
        _remove(doomed)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `Store.keys`."""
        if prefix:
            check_prefix(prefix)
        for folder, _, names in os.walk(self._objects / prefix):
            for name in names:
                if name.endswith(_RECORD):
                    yield (Path(folder) / name.removesuffix(_RECORD)).relative_to(self._objects).as_posix()

    def url(self, key: str, *, expires_at: datetime, filename: str) -> str:
        """See `Store.url` and `UrlSigner.url`."""
        return self._signer.url(key, expires_at=expires_at, filename=filename)

    def verify(self, key: str, params: Mapping[str, str], now: datetime) -> str:
        """See `UrlSigner.verify`."""
        return self._signer.verify(key, params, now)

    def _record(self, key: str) -> Path:
        return self._objects / (key + _RECORD)

    def _content(self, key: str, token: str) -> Path:
        return self._objects / f"{key}@{token}"

    def _find(self, key: str) -> tuple[Artifact, Path] | None:
        check_key(key)
        try:
            fields = json.loads(self._record(key).read_bytes())
        except FileNotFoundError:
            return None
        artifact = Artifact(key, fields["sha256"], fields["bytes"], fields["mimeType"])
        return artifact, self._content(key, fields["token"])

    @contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, mode)
            yield
        finally:
            os.close(descriptor)

    def _remove_abandoned(self) -> None:
        oldest = time.time() - _ABANDONED_SECONDS
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if path.lstat().st_mtime < oldest:
                    _remove(path)


def _write(path: Path, source: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    # Another process may be removing the same leftovers.
    with suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _make_private(folder: Path) -> None:
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
