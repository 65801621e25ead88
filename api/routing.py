"""An operation: one definition that is the Starlette route and the OpenAPI entry alike."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from accounts.keys import Caller
from api import idempotency, parsing
from api.auth import KEY, Access
from api.call import Call
from api.cors import preflight
from api.models import Query, WriteBody
from api.services import Services
from core.database import UNAVAILABLE
from core.errors import (
    ApiError,
    BodyTooLarge,
    BodyTooSlow,
    DatabaseUnavailable,
    Internal,
    InvalidInput,
    MalformedJson,
    Overloaded,
    RateLimited,
    StorageUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)
from core.log import logger
from core.metrics import OBJECT_STORE_FAILURES
from storage import StoreUnavailable
from tasks.validation import validated

BASE = "/api/v1"

_log = logger(__name__)

Method: TypeAlias = Literal["GET", "POST", "PUT", "DELETE"]
Handler: TypeAlias = Callable[[Call[Any, Any]], Awaitable[Response]]


class NoQuery(Query):
    """No query field at all."""


@dataclass(frozen=True)
class Operation:
    """A method on a path. `answer` is None for an answer that is no JSON; `aliases` are further paths.

    `body` validates, `forms` are the shapes it is documented with when there are several, told apart by their field
    `task`. A `raw` body is bytes of any type, which the handler reads itself. A public operation asks for no key and
    touches no database; of the others, `access` says who may call. One that is not `limited` counts in no rate limit.
    `also` has further good answers by status, `media_type` is that of an answer which is no JSON, `headers` are the
    request headers that it reads, each with its description, and `answer_headers` those that its good answers may have,
    by status, beside the ones that follow from the other fields.
    """

    handler: Handler
    method: Method
    path: str
    tag: str
    answer: type[BaseModel] | None
    status: HTTPStatus
    body: type[WriteBody] | None
    forms: Sequence[type[WriteBody]]
    query: type[Query]
    own_errors: Sequence[type[ApiError]]
    public: bool
    aliases: Sequence[str]
    raw: bool
    limited: bool
    access: Access
    also: Mapping[HTTPStatus, type[BaseModel] | None]
    media_type: str
    headers: Mapping[str, str]
    answer_headers: Mapping[HTTPStatus, Sequence[str]]

    @cached_property
    def name(self) -> str:
        """The operation's name in OpenAPI."""
        return self.handler.__name__

    @cached_property
    def summary(self) -> str:
        """What it does: the handler's docstring."""
        return inspect.cleandoc(self.handler.__doc__ or "")

    @cached_property
    def route(self) -> str:
        """Its name in idempotency records."""
        return f"{self.method} {self.path.removeprefix(BASE)}"

    @cached_property
    def errors(self) -> tuple[type[ApiError], ...]:
        """Every error it can answer, by status."""
        errors = {*self.own_errors, Internal}
        if not self.public:
            errors |= {Unauthorized, DatabaseUnavailable}
        if self.limited:
            errors |= {RateLimited}
        if self.query.model_fields:
            errors |= {InvalidInput}
        if self.body is not None:
            errors |= {MalformedJson, BodyTooSlow, BodyTooLarge, UnsupportedMediaType, InvalidInput, Overloaded}
        if self.raw:
            errors |= {BodyTooLarge, UnsupportedMediaType, InvalidInput}
        return tuple(sorted(errors, key=lambda error: (error.status, error.code)))

    async def respond(self, request: Request) -> Response:
        """Check the request, then let the handler answer."""
        try:
            return await self._respond(request)
        except StoreUnavailable as error:
            OBJECT_STORE_FAILURES.inc()
            _log.warning("the store of objects does not serve us", operation=self.name, error=str(error))
            raise StorageUnavailable from error
        except UNAVAILABLE as error:
            # asyncpg's DataError, a value no column takes, is an InterfaceError too: a fault of ours, not an absence.
            if self.public or isinstance(error, ValueError):
                raise
            raise DatabaseUnavailable from error

    async def _respond(self, request: Request) -> Response:
        services: Services = request.app.state.services
        caller = await self._caller(request, services)
        query = parsing.query(request.query_params, self.query)
        with services.room.guest(None if caller is None else caller.account_id) as guest:
            body, size, fingerprint = None, 0, _fingerprint(query) if self.writes and self.body is None else b""
            if self.body is not None:
                content = await parsing.read(request, services.settings.max_body_bytes, guest)
                size = len(content)
                document = await services.offload(size, parsing.parse, content)
                body, fingerprint = validated(self.body, document.value, root=""), document.fingerprint
                del content, document
            key = None
            if self.writes and not self.public:
                key = idempotency.key(request.headers, body.idempotency_key if body else None)
            call = Call(request, services, self.route, caller, query, body, size, fingerprint, key, guest)
            return await self.handler(call)

    async def _caller(self, request: Request, services: Services) -> Caller | None:
        """Who calls, counted in the rate limits before anything of the body is read."""
        if self.public:
            if self.limited:
                await services.rate_limits.admit_address(request.scope)
            return None
        try:
            caller = await self.access.caller(request, services)
        except Unauthorized:
            if self.limited:
                await services.rate_limits.admit_address(request.scope)
            raise
        request.state.account_id = caller.account_id
        if self.limited:
            await services.rate_limits.admit_key(request.scope, caller, writes=self.writes)
        return caller

    @property
    def writes(self) -> bool:
        """Whether it changes something, so that an idempotency key makes sense."""
        return self.method != "GET"


def _fingerprint(query: Query) -> bytes:
    """What makes a request without a body the same as another on its route."""
    return sha256(query.model_dump_json(exclude_unset=True).encode()).digest()


def operation(
    method: Method,
    path: str,
    *,
    tag: str,
    answer: type[BaseModel] | None,
    status: HTTPStatus = HTTPStatus.OK,
    body: type[WriteBody] | None = None,
    forms: Sequence[type[WriteBody]] = (),
    query: type[Query] = NoQuery,
    errors: Sequence[type[ApiError]] = (),
    public: bool = False,
    aliases: Sequence[str] = (),
    raw: bool = False,
    limited: bool = True,
    access: Access = KEY,
    also: Mapping[HTTPStatus, type[BaseModel] | None] = MappingProxyType({}),
    media_type: str = "*/*",
    headers: Mapping[str, str] = MappingProxyType({}),
    answer_headers: Mapping[HTTPStatus, Sequence[str]] = MappingProxyType({}),
) -> Callable[[Handler], Operation]:
    """Make a handler an `Operation`, whose fields the arguments are."""

    def made(handler: Handler) -> Operation:
        return Operation(
            handler=handler,
            method=method,
            path=path,
            tag=tag,
            answer=answer,
            status=status,
            body=body,
            forms=forms,
            query=query,
            own_errors=errors,
            public=public,
            aliases=aliases,
            raw=raw,
            limited=limited,
            access=access,
            also=also,
            media_type=media_type,
            headers=headers,
            answer_headers=answer_headers,
        )

    return made


def routes(operations: Iterable[Operation]) -> list[Route]:
    """One route per path, so that a 405 names every method of the path, and each answers OPTIONS."""
    by_path: dict[str, dict[str, Operation]] = {}
    for each in operations:
        for path in (each.path, *each.aliases):
            by_path.setdefault(path, {})[each.method] = each
    return [_route(path, methods) for path, methods in by_path.items()]


def _route(path: str, methods: Mapping[str, Operation]) -> Route:
    allow = ", ".join(sorted({*methods, "OPTIONS", *({"HEAD"} if "GET" in methods else ())}))

    async def endpoint(request: Request) -> Response:
        if request.method == "OPTIONS":
            return preflight(allow)
        return await methods["GET" if request.method == "HEAD" else request.method].respond(request)

    return Route(path, endpoint, methods=[*methods, "OPTIONS"])
