"""Who calls: an API key as `Authorization: Bearer <key>` or as `x-api-key: <key>`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request

from accounts.keys import Caller, Keys
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


async def authenticate(headers: Headers, keys: Keys) -> Caller:
    """The caller.

    Raises:
        Unauthorized: no key, an unknown one or a revoked one.
    """
    caller = await keys.authenticate(credential(headers))
    if caller is None:
        raise Unauthorized
    return caller


@dataclass(frozen=True)
class Access:
    """How an operation finds out who calls; `schemes` are the ways' names in OpenAPI."""

    caller: Callable[[Request, Services], Awaitable[Caller]]
    schemes: tuple[str, ...]


async def _by_key(request: Request, services: Services) -> Caller:
    return await authenticate(request.headers, services.keys)


KEY = Access(_by_key, ("bearer", "apiKey"))
"""An API key, the way of all operations but few."""
