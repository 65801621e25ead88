"""Cursors: where the next page of a list begins, sealed, so that nobody makes one up or reads our own ids in it."""

from __future__ import annotations

import base64
import hmac
import json
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken

from core.errors import FieldProblem
from tasks.validation import refusal

MAX_CHARACTERS = 512


class Cursors:
    """Seals places in lists with a secret `key`; one is good for its own list and account only, and for ever."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(hmac.digest(key, b"cursor", "sha256")))

    def seal(self, listed: str, account_id: UUID, place: list[int | str]) -> str:
        """The cursor of what follows `place` in the list `listed` of the account."""
        return self._fernet.encrypt(json.dumps([listed, str(account_id), *place]).encode()).decode()

    def read(self, listed: str, account_id: UUID, cursor: str) -> list[int | str]:
        """The place that `cursor` names.

        Raises:
            InvalidInput: it was altered, or belongs to another list or account.
        """
        place: list[int | str] = []
        try:
            found_list, found_account, *place = json.loads(self._fernet.decrypt(cursor.encode()))
        except InvalidToken:
            found_list = found_account = None
        if (found_list, found_account) != (listed, str(account_id)):
            message = "is not a cursor of this list; send nextCursor exactly as the page before gave it, or none"
            raise refusal([FieldProblem("cursor", message)])
        return place
