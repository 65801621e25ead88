"""API keys: `kt_<prefix>_<secret>`, shown once; only a keyed hash is kept.

The prefix (8 characters) finds the row, the secret (32 characters of base 32, 160 bits) proves the holder. A random key
needs no slow hash: HMAC-SHA256 with the server's pepper is enough, and costs microseconds.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from core.batches import Batches
from core.database import Connection, Database
from core.errors import AmbiguousPrefix, FieldProblem, InvalidInput, NotFound, WrongState

REVOKED_CHANNEL = "key_revoked"
"""A key was revoked; the payload is its prefix."""

MOST_LIVE = 100
"""Keys of one account that work: limits count by key, and would be none without it."""

_ALPHABET = "abcdefghjkmnpqrstvwxyz0123456789"
_FORM = re.compile(r"kt_([a-z0-9]{8})_([a-z0-9]{32})")
_PREFIX = re.compile(r"(?:kt_)?([a-z0-9]{5,8})")
_LIVE = (
    "SELECT account_id, prefix, hash, last_used_at < clock_timestamp() - interval '1 minute' IS NOT FALSE AS stale"
    " FROM api_key WHERE prefix = ANY ($1) AND revoked_at IS NULL"
)
_COLUMNS = "prefix, label, created_at, last_used_at, revoked_at"


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key after it was shown."""

    prefix: str
    label: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class Caller:
    """Who sends a request."""

    account_id: UUID
    key_prefix: str


def _draw(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


class Keys:
    """The keys of all accounts; `pepper` is the server's secret."""

    def __init__(self, database: Database, pepper: bytes) -> None:
        self._database = database
        self._pepper = hmac.digest(pepper, b"api key", "sha256")
        self._live = Batches(self._read)

    def _hash(self, key: str) -> bytes:
        return hmac.digest(self._pepper, key.encode(), "sha256")

    async def authenticate(self, key: str) -> Caller | None:
        """The caller that holds `key`, or None for an unknown or revoked one.

        Notes the use about once a minute, and waits for nobody: a revoked key stops working with the revoking commit.
        """
        form = _FORM.fullmatch(key)
        if form is None:
            return None
        row = await self._live.get(form[1])
        if row is None or not hmac.compare_digest(row["hash"], self._hash(key)):
            return None
        if row["stale"]:
            await self._database.execute(
                "UPDATE api_key SET last_used_at = clock_timestamp() WHERE prefix ="
                " (SELECT prefix FROM api_key WHERE prefix = $1 FOR NO KEY UPDATE SKIP LOCKED)",
                row["prefix"],
            )
        return Caller(row["account_id"], row["prefix"])

    async def _read(self, prefixes: Sequence[str]) -> dict[str, Any]:
        rows = await self._database.fetch(_LIVE, prefixes)
        return {row["prefix"]: row for row in rows}

    async def holder(self, prefix: str) -> Caller | None:
        """Whose key begins with this prefix, or None for an unknown or revoked one: for tokens that a key gave out."""
        account_id = await self._database.fetch_value(
            "SELECT account_id FROM api_key WHERE prefix = $1 AND revoked_at IS NULL", prefix
        )
        return None if account_id is None else Caller(account_id, prefix)

    async def revoked(self, prefixes: Iterable[str]) -> set[str]:
        """Those of the prefixes whose key was revoked."""
        rows = await self._database.fetch(
            "SELECT prefix FROM api_key WHERE prefix = ANY($1) AND revoked_at IS NOT NULL", list(prefixes)
        )
        return {row["prefix"] for row in rows}

    async def create(self, connection: Connection, account_id: UUID, label: str) -> tuple[str, ApiKey]:
        """A new key of the account: the full key, to be shown once, and its record.

        Raises:
            WrongState: the account has `MOST_LIVE` keys that work.
        """
        # Counted by a statement of its own, which sees what the lock had to wait for.
        await connection.execute("SELECT FROM account WHERE id = $1 FOR NO KEY UPDATE", account_id)
        live = await connection.fetchval(
            "SELECT count(*) FROM api_key WHERE account_id = $1 AND revoked_at IS NULL", account_id
        )
        if live >= MOST_LIVE:
            raise WrongState(f"This account has {live} keys that work, the most; revoke one first (POST /keys/revoke).")
        while True:
            prefix = _draw(8)
            key = f"kt_{prefix}_{_draw(32)}"
            row = await connection.fetchrow(
                "INSERT INTO api_key (prefix, account_id, label, hash) VALUES ($1, $2, $3, $4)"
                f" ON CONFLICT (prefix) DO NOTHING RETURNING {_COLUMNS}",
                prefix,
                account_id,
                label,
                self._hash(key),
            )
            if row is not None:
                return key, ApiKey(**row)

    async def list(self, account_id: UUID) -> list[ApiKey]:
        """The account's keys, oldest first, revoked ones too."""
        rows = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM api_key WHERE account_id = $1 ORDER BY created_at, prefix", account_id
        )
        return [ApiKey(**row) for row in rows]

    async def revoke(self, connection: Connection, account_id: UUID, prefix: str) -> ApiKey:
        """Revoke the account's one key that begins with `prefix` (with or without `kt_`); again is no error.

        Raises:
            InvalidInput: `prefix` is no prefix of a key.
            NotFound: the account has no such key.
            AmbiguousPrefix: several of its keys begin so.
        """
        form = _PREFIX.fullmatch(prefix)
        if form is None:
            raise InvalidInput(
                "keyPrefix is the 5 to 8 characters after kt_ that GET /keys lists.",
                fields=[FieldProblem("keyPrefix", "is not the prefix of a key", allowed="5 to 8 of a-z and 0-9")],
            )
        rows = await connection.fetch(
            f"SELECT {_COLUMNS} FROM api_key WHERE account_id = $1 AND starts_with(prefix, $2) FOR UPDATE",
            account_id,
            form[1],
        )
        if not rows:
            raise NotFound("No key of this account begins with this prefix; GET /keys lists them.")
        if len(rows) > 1:
            raise AmbiguousPrefix(f"{len(rows)} keys begin with this prefix; send more of its characters.")
        row = await connection.fetchrow(
            "UPDATE api_key SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE prefix = $1"
            f" RETURNING {_COLUMNS}",
            rows[0]["prefix"],
        )
        await connection.execute("SELECT pg_notify($1, $2)", REVOKED_CHANNEL, row["prefix"])
        return ApiKey(**row)
