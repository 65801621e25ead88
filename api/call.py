"""One request, parsed: what a handler gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from starlette.requests import Request

from accounts.keys import Caller
from api.room import Guest
from api.services import Services
from core.errors import Unauthorized

BodyT_co = TypeVar("BodyT_co", covariant=True)
QueryT_co = TypeVar("QueryT_co", covariant=True)


@dataclass(frozen=True)
class Call(Generic[BodyT_co, QueryT_co]):
    """A request whose caller, query and body were checked.

    `route` names the operation in idempotency records (`POST /keys`). `fingerprint` is the SHA-256 of the canonical
    body, `body_bytes` its size. Without a body, `body` is None, and the fingerprint is that of the query. `guest` has the
    room for the body.
    """

    request: Request
    services: Services
    route: str
    caller: Caller | None
    query: QueryT_co
    body: BodyT_co
    body_bytes: int
    fingerprint: bytes
    idempotency_key: str | None
    guest: Guest

    @property
    def account_id(self) -> UUID:
        """The caller's account.

        Raises:
            Unauthorized: the operation is public and nobody was asked for a key.
        """
        return self.known_caller.account_id

    @property
    def known_caller(self) -> Caller:
        """The caller.

        Raises:
            Unauthorized: the operation is public and nobody was asked for a key.
        """
        if self.caller is None:
            raise Unauthorized
        return self.caller

    @property
    def request_id(self) -> str:
        """The `X-Request-Id` of the response."""
        request_id: str = self.request.state.request_id
        return request_id
