"""Who calls: an API key as `Authorization: Bearer <key>` or as `x-api-key: <key>`."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request

from accounts.keys import Caller
from api.services import Services
from core.errors import Unauthorized

_MAX_CHARACTERS = 256


def credential(headers: Headers) -> str:
    """The key that a request carries.

    Raises:
        Unauthorized: none, another scheme, or two that differ.
    """
    found = {value.strip() for value in headers.getlist("x-api-key")}
    for value in headers.getlist("authorization"):
        scheme, _, key = value.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("This Authorization scheme is not known; send 'Authorization: Bearer <key>'.")
        found.add(key.strip())
    if len(found) > 1:
        raise Unauthorized("Authorization and x-api-key carry different keys; send one of them.")
    key = found.pop() if found else ""
    if not key or len(key) > _MAX_CHARACTERS or not key.isascii():
        raise Unauthorized
    return key


async def authenticate(request: Request, services: Services) -> Caller:
    """The caller.

    Raises:
        Unauthorized: no key, an unknown one or a revoked one.
    """
    key = credential(request.headers)
    digest = hashlib.sha256(key.encode()).digest()
    # Beyond the limit nothing bounds look-ups any more. Keys have 160 random bits: none becomes valid a moment later.
    known = services.refused_keys if services.rate_limits.lately_refused(request.scope) else None
    if known is not None and digest in known:
        raise Unauthorized
    caller = await services.keys.authenticate(key)
    if caller is not None:
        return caller
    if known is not None:
        known.note(digest)
    raise Unauthorized


@dataclass(frozen=True)
class Access:
    """How an operation finds out who calls; `schemes` are the ways' names in OpenAPI."""

    caller: Callable[[Request, Services], Awaitable[Caller]]
    schemes: tuple[str, ...]


KEY = Access(authenticate, ("bearer", "apiKey"))
"""An API key, the way of all operations but few."""
