"""Quote tokens: a price that was promised, signed, for one account, task and input, until it expires."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from core.errors import QuoteExpired, QuoteMismatch
from tasks.base import Prepared, Task

MAX_TOKEN_CHARACTERS = 1024
_UNREADABLE = "This quoteToken was altered or is not one of ours; send it exactly as POST /media/quotes gave it."


@dataclass(frozen=True)
class QuoteClaim:
    """What a quote token promises. `seed` is the one drawn for the quote, or None when the caller gave one."""

    account_id: str
    task: str
    input_hash: str
    seed: int | None
    amount_micros: int
    book_version: str
    expires_at: datetime

    def apply(self, account_id: str, task: Task[Any], prepared: Prepared) -> Prepared:
        """The prepared input of a submit that uses this quote: the drawn seed is the quoted one.

        A caller may also send the quote's effective input back, seed and all.

        Raises:
            QuoteMismatch: the quote is for another account, task or input.
        """
        if (account_id, task.name) != (self.account_id, self.task):
            raise QuoteMismatch
        if task.hash_input(prepared.effective_input, self.seed is not None) != self.input_hash:
            raise QuoteMismatch
        if self.seed is None:
            return prepared
        if not prepared.seed_drawn and prepared.effective_input["seed"] != self.seed:
            raise QuoteMismatch
        return replace(prepared, effective_input={**prepared.effective_input, "seed": self.seed})


class QuoteTokens:
    """Signs and reads quote tokens with a secret `key`."""

    def __init__(self, key: bytes) -> None:
        self._serializer = URLSafeSerializer(
            key, salt="quote-token", signer_kwargs={"digest_method": sha256, "key_derivation": "hmac"}
        )

    def sign(
        self,
        *,
        account_id: str,
        task: str,
        input_hash: str,
        seed: int | None,
        amount_micros: int,
        book_version: str,
        expires_at: datetime,
    ) -> str:
        """A URL-safe token of some 250 characters; `expires_at` counts in whole seconds."""
        claim = [account_id, task, input_hash, seed, amount_micros, book_version, int(expires_at.timestamp())]
        return self._serializer.dumps(claim)

    def read(self, token: str, now: datetime) -> QuoteClaim:
        """What `token` promises.

        Raises:
            QuoteMismatch: not signed by us, or altered.
            QuoteExpired: its time is over.
        """
        if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
            raise QuoteMismatch(_UNREADABLE)
        try:
            account_id, task, input_hash, seed, amount_micros, book_version, expiry = self._serializer.loads(token)
        except BadData:
            raise QuoteMismatch(_UNREADABLE) from None
        expires_at = datetime.fromtimestamp(expiry, UTC)
        if now >= expires_at:
            raise QuoteExpired
        return QuoteClaim(account_id, task, input_hash, seed, amount_micros, book_version, expires_at)
