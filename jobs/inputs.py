"""Media that callers send inside a request: taken out of the input, and stored by their content.

The row of an input is made or refreshed first, its object is put next, and the job that names it comes last. A sweep holds
the row while it deletes the object, so whoever comes meanwhile waits, finds no object and puts it again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from core.database import Database
from media import kinds
from storage import Store
from tasks.base import Findings, Prepared
from tasks.media_fields import decode_inline
from tasks.validation import refusal

_KEEP = """INSERT INTO input (sha256) VALUES ($1)
ON CONFLICT (sha256) DO UPDATE SET kept_at = clock_timestamp() RETURNING kept_at"""


@dataclass(frozen=True)
class InlineFile:
    """The bytes of a file that came inside a request, and what they are by their content."""

    content: bytes = field(repr=False)
    mime_type: str
    sha256: bytes

    @property
    def key(self) -> str:
        """Where the store has it."""
        return input_key(self.sha256.hex())

    def as_json(self) -> dict[str, Any]:
        """What stands in its place in the effective input."""
        return {"sha256": self.sha256.hex(), "mimeType": self.mime_type, "bytes": len(self.content)}


def input_key(sha256: str) -> str:
    """Where the store has the input with this digest (lower-case hex)."""
    return f"in/{sha256}"


def take_out(prepared: Prepared, raw: object, *, strict: bool = False) -> tuple[Prepared, tuple[InlineFile, ...]]:
    """The input with `{sha256, mimeType, bytes}` in place of every inline file, and the files.

    A file of another supported format than it says is used as what it is, which is an adjustment, and with `strict` a
    problem. `raw` is what the caller sent: problems are told in its names.

    Raises:
        InvalidInput: a file is of none of the formats of its kind.
    """
    files: dict[bytes, InlineFile] = {}
    findings = Findings()
    effective = _without_files(prepared.effective_input, "", _Places(raw), files, findings)
    if strict:
        findings.refuse_adjustments()
    if findings.problems:
        raise refusal(findings.problems)
    adjustments = (*prepared.adjustments, *findings.adjustments)
    return replace(prepared, effective_input=effective, adjustments=adjustments), tuple(files.values())


def _without_files(value: Any, path: str, places: _Places, files: dict[bytes, InlineFile], findings: Findings) -> Any:
    # No closure: one that calls itself is a cycle, and would keep the files until the next collection.
    if not isinstance(value, dict | list):
        return value
    match value:
        case {"dataBase64": bytes(content), "mimeType": str(given)}:
            file = _known(content, given, places, path, findings)
            files[file.sha256] = file
            return file.as_json()
        case dict():
            return {
                name: _without_files(item, f"{path}.{name}" if path else name, places, files, findings)
                for name, item in value.items()
            }
        case _:
            return [
                _without_files(item, f"{path}[{index}]", places, files, findings) for index, item in enumerate(value)
            ]


def _known(content: bytes, given: str, places: _Places, path: str, findings: Findings) -> InlineFile:
    kind = kinds.kind_of(given)
    assert kind is not None
    digest, found = hashlib.sha256(content).digest(), kinds.sniff(content, kind)
    if found is None or not kinds.same(found, given):
        named = places.next_of(digest) or path
        if found is None:
            findings.refuse(f"{named}.dataBase64", f"is no {kinds.NAMES[kind]} file; convert it to one of them")
        else:
            findings.adjust(f"{named}.mimeType", given, found, "the file's content")
    return InlineFile(content, found or given, digest)


class _Places:
    """Where in the caller's own input each inline file is, by its digest; the input is gone through once, when asked."""

    def __init__(self, raw: object) -> None:
        self._raw = raw
        self._left: dict[bytes, deque[str]] | None = None

    def next_of(self, digest: bytes) -> str | None:
        """The next place of the file, in the order of the input; None when there is none, or no further one."""
        if self._left is None:
            self._left = defaultdict(deque)
            for path, content in _inline(self._raw, ""):
                self._left[hashlib.sha256(content).digest()].append(path)
        left = self._left.get(digest)
        return left.popleft() if left else None


def _inline(raw: object, path: str) -> Iterator[tuple[str, bytes]]:
    match raw:
        case {"dataBase64": text}:
            yield path, decode_inline(text)
        case dict():
            for name, item in raw.items():
                yield from _inline(item, f"{path}.{name}" if path else name)
        case list():
            for index, item in enumerate(raw):
                yield from _inline(item, f"{path}[{index}]")


class Inputs:
    """The stored files of all accounts; equal ones are stored once."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store

    async def keep(self, files: Iterable[InlineFile]) -> datetime | None:
        """Store what is not yet stored; for an hour no sweep takes it, and after that none while a job names it.

        Returns when the first was kept, which a submit must know: too late a one is refused.

        Raises:
            StoreUnavailable: the store fails.
        """
        kept: list[datetime] = []
        for file in files:
            kept.append(await self._database.fetch_value(_KEEP, file.sha256))
            await asyncio.to_thread(self._put, file)
        return min(kept, default=None)

    def _put(self, file: InlineFile) -> None:
        if self._store.stat(file.key) is None:
            self._store.put(file.key, file.content, file.mime_type)
