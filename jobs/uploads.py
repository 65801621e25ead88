"""Files that callers bring before they submit: a promise of type and size, then the content, then 24 hours of use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from uuid import UUID

from core.clock import now
from core.database import Connection
from core.errors import RateLimited
from core.ids import encode, uuid7
from storage import Store

FOLDER = "up"

_LOCK = "SELECT FROM account WHERE id = $1 FOR NO KEY UPDATE"
_OPEN = """
SELECT count(*) AS open, coalesce(sum(bytes), 0)::bigint AS bytes,
  extract(epoch FROM min(expires_at) - clock_timestamp())::float AS seconds
FROM upload WHERE account_id = $1 AND expires_at > statement_timestamp()
"""
_INSERT = """INSERT INTO upload (id, account_id, key, mime_type, bytes, sha256, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)"""


@dataclass(frozen=True)
class Upload:
    """One file's way in: PUT it to `upload_url`, then name it by `url`; both end at `expires_at`."""

    id: UUID
    upload_url: str
    url: str
    expires_at: datetime


@dataclass(frozen=True)
class UploadLimits:
    """What an account may have at a time: files, and bytes in all; each lives `seconds`."""

    files: int
    bytes: int
    seconds: float


class Uploads:
    """Opens uploads in `store`."""

    def __init__(self, store: Store, limits: UploadLimits) -> None:
        self._store = store
        self._limits = limits

    async def open(
        self, connection: Connection, account_id: UUID, *, mime_type: str, size: int, sha256: str | None
    ) -> Upload:
        """A new upload of `size` bytes, in the caller's transaction; `sha256` is lower-case hex.

        Raises:
            RateLimited: the account has as many files, or bytes, in uploads as it may.
        """
        # Counted by a statement of its own, which sees what the lock had to wait for.
        await connection.execute(_LOCK, account_id)
        taken = await connection.fetchrow(_OPEN, account_id)
        limits = self._limits
        if taken["open"] >= limits.files or taken["bytes"] + size > limits.bytes:
            raise RateLimited(
                f"This account has {taken['open']} uploads of {taken['bytes']} bytes in all; with this one it would have "
                f"more than {limits.files} uploads or {limits.bytes} bytes. They end by themselves.",
                headers={"Retry-After": str(max(1, ceil(taken["seconds"] or 1)))},
            )
        made, expires_at = uuid7(), now() + timedelta(seconds=limits.seconds)
        name = encode("upl", made)
        key = f"{FOLDER}/{name}"
        await connection.execute(
            _INSERT, made, account_id, key, mime_type, size, sha256 and bytes.fromhex(sha256), expires_at
        )
        return Upload(
            id=made,
            upload_url=self._store.upload_url(
                key, mime_type=mime_type, bytes=size, sha256=sha256, expires_at=expires_at
            ),
            url=self._store.url(key, expires_at=expires_at, filename=name),
            expires_at=expires_at,
        )
