"""Cursors: where the next page of a list begins, signed, so that nobody makes one up."""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID

from itsdangerous import BadData, URLSafeSerializer

from core.errors import FieldProblem
from tasks.validation import refusal

MAX_CHARACTERS = 512


class Cursors:
    """Signs places in lists with a secret `key`; one is good for its own list and account only, and for ever."""

    def __init__(self, key: bytes) -> None:
        self._serializer = URLSafeSerializer(
            key, salt="cursor", signer_kwargs={"digest_method": sha256, "key_derivation": "hmac"}
        )

    def sign(self, listed: str, account_id: UUID, place: list[int | str]) -> str:
        """The cursor of what follows `place` in the list `listed` of the account."""
        return self._serializer.dumps([listed, str(account_id), *place])

    def read(self, listed: str, account_id: UUID, cursor: str) -> list[int | str]:
        """The place that `cursor` names.

        Raises:
            InvalidInput: it was altered, or belongs to another list or account.
        """
        place: list[int | str] = []
        try:
            found_list, found_account, *place = self._serializer.loads(cursor)
        except BadData:
            found_list = found_account = None
        if (found_list, found_account) != (listed, str(account_id)):
            message = "is not a cursor of this list; send nextCursor exactly as the page before gave it, or none"
            raise refusal([FieldProblem("cursor", message)])
        return place
