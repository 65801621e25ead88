"""Artifacts in a folder of this machine.

An object is two files in the folder that its key names: the content, `image.webp@<token>`, and the record that points
at it, `image.webp@json`. Replacing the record is the one step that makes an object appear or change, so a writer that
dies leaves the old object or none. `@` is in no key, so no two keys meet. A lock file keeps writers (of all processes)
from each other while they move finished files into place; contents are written before, outside the lock.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from storage.base import (
    Artifact,
    Draft,
    MissingObject,
    ObjectExists,
    check_key,
    check_mime_type,
    check_prefix,
    check_range,
    disk_faults,
    open_source,
)
from storage.signing import UrlSigner

_CHUNK_BYTES = 1 << 20
_ABANDONED_SECONDS = 24 * 3600
_RECORD = "@json"


class LocalStore(UrlSigner):
    """A `Store` in the folder `root` (made private, 0700; files 0600), with URLs signed by `key` (32 bytes or more)."""

    def __init__(self, root: Path, base_url: str, key: bytes | None) -> None:
        super().__init__(base_url, key)
        self._objects = root / "objects"
        self._incoming = root / "incoming"
        self._lock_file = root / "lock"
        for folder in (root, self._objects, self._incoming):
            _make_private(folder)
        self._remove_abandoned()

    def put(self, key: str, data: bytes | Path | BinaryIO, mime_type: str, *, once: bool = False) -> Artifact:
        """See `Store.put`."""
        with open_source(data) as source, closing(self.draft(key, mime_type)) as draft:
            draft.fill(source)
            return draft.keep(once=once)

    def draft(self, key: str, mime_type: str) -> Draft:
        """See `Store.draft`."""
        check_key(key)
        check_mime_type(mime_type)
        return _Draft(self, key, mime_type, secrets.token_hex(16))

    def read(self, key: str) -> bytes:
        """See `Store.read`."""
        with self.open(key) as stream:
            return stream.read()

    def open(self, key: str) -> BinaryIO:
        """See `Store.open`."""
        with self._locked(fcntl.LOCK_SH):
            return self.path(key).open("rb")

    def open_range(self, key: str, start: int, stop: int) -> BinaryIO:
        """See `Store.open_range`."""
        check_range(start, stop)
        file = self.open(key)
        file.seek(min(start, os.fstat(file.fileno()).st_size))
        return io.BufferedReader(_Span(file, stop - start), _CHUNK_BYTES)

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

    def direct_url(self, key: str, *, expires_at: datetime, filename: str) -> str | None:
        """See `Store.direct_url`: there is no server behind a folder."""
        return None

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

    def _draft_file(self, name: str) -> Path:
        return self._incoming / name

    def _install(self, artifact: Artifact, token: str, once: bool) -> None:
        fields = {
            "token": token,
            "sha256": artifact.sha256,
            "bytes": artifact.bytes,
            "mimeType": artifact.mime_type,
        }
        key, record = artifact.key, self._draft_file(token + _RECORD)
        with _create(record) as file:
            file.write(json.dumps(fields).encode())
            _sync_file(file)
        with self._locked(fcntl.LOCK_EX):
            old = self._find(key)
            if once and old is not None:
                raise ObjectExists(key)
            _make_private(self._content(key, token).parent)
            self._draft_file(token).replace(self._content(key, token))
            record.replace(self._record(key))
            _sync_folder(self._record(key).parent)
            if old is not None:
                old[1].unlink(missing_ok=True)

    def _remove_abandoned(self) -> None:
        oldest = time.time() - _ABANDONED_SECONDS
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if path.lstat().st_mtime < oldest:
                    _remove(path)


class _Draft(Draft):
    """A draft in the folder of what is incoming, named by its token."""

    def __init__(self, store: LocalStore, key: str, mime_type: str, token: str) -> None:
        with disk_faults():
            super().__init__(_create(store._draft_file(token)))
        self._store = store
        self._key = key
        self._mime_type = mime_type
        self._token = token

    def keep(self, *, once: bool = False) -> Artifact:
        artifact = Artifact(self._key, self.sha256, self.size, self._mime_type)
        with disk_faults():
            _sync_file(self._file)
            self._store._install(artifact, self._token, once)
        return artifact

    def close(self) -> None:
        try:
            with disk_faults():
                super().close()
        finally:
            for name in (self._token, self._token + _RECORD):
                self._store._draft_file(name).unlink(missing_ok=True)


class _Span(io.RawIOBase):
    """The next `length` bytes of a file, which is closed with it."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _sync_file(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
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
