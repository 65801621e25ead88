"""Bytes from outside as values we dare to handle: a bounded body, strict JSON, known query fields."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request

from core.errors import BodyTooLarge, BodyTooSlow, FieldProblem, InvalidInput, MalformedJson, UnsupportedMediaType
from tasks.validation import refusal, validated

MAX_DEPTH = 32
"""How deep objects and lists may nest."""
MAX_MARKS = 50_000
"""How many commas and opening brackets a body may hold: megabytes of tiny values would take gigabytes as objects."""
SILENCE_SECONDS = 30.0
BODY_SECONDS = 600.0

_EXACT_IN_A_FLOAT = 2**53

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A parsed body. `fingerprint` is the SHA-256 of its canonical JSON without `idempotencyKey`; `size` is in bytes."""

    value: dict[str, Any]
    fingerprint: bytes
    size: int


async def read(request: Request, limit: int) -> bytes:
    """The body of a request that says it is JSON.

    Raises:
        UnsupportedMediaType: it says otherwise.
        BodyTooLarge: more than `limit` bytes, declared or sent.
        BodyTooSlow: nothing came for `SILENCE_SECONDS`, or not all of it within `BODY_SECONDS`.
        MalformedJson: more values than any request needs.
    """
    _require_json(request.headers.getlist("content-type"))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    marks = 0
    try:
        async with asyncio.timeout(SILENCE_SECONDS) as silence, asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
                marks += sum(map(chunk.count, (b",", b"[", b"{")))
                if marks > MAX_MARKS:
                    raise MalformedJson("The body holds more values than any request needs; send fewer.")
                silence.reschedule(asyncio.get_running_loop().time() + SILENCE_SECONDS)
    except TimeoutError:
        raise BodyTooSlow(headers={"Connection": "close"}) from None
    return bytes(body)


def parse(body: bytes) -> Document:
    """The JSON object in `body`.

    Raises:
        MalformedJson: no strict JSON (RFC 8259), a name given twice, nested too deep, or text no database can hold.
        InvalidInput: JSON, but no object.
    """
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_object, parse_float=_number, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise MalformedJson(f"The body is not UTF-8 (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise MalformedJson("The body has a number with thousands of digits.") from None
    if not isinstance(value, dict):
        raise InvalidInput("The body must be a JSON object.")
    _inspect(value)
    counted = {name: item for name, item in value.items() if name != "idempotencyKey"}
    canonical = json.dumps(counted, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return Document(value, hashlib.sha256(canonical.encode()).digest(), len(body))


def query(params: QueryParams, model: type[ModelT]) -> ModelT:
    """The query string as `model`.

    Raises:
        InvalidInput: a field is unknown, given twice, or holds something else than it should.
    """
    twice = [name for name in params if len(params.getlist(name)) > 1]
    if twice:
        raise refusal([FieldProblem(name[:64], "is given more than once") for name in twice[:20]])
    return validated(model, dict(params), root="")


def _require_json(content_types: Sequence[str]) -> None:
    if len(content_types) != 1:
        raise UnsupportedMediaType
    kind, *parameters = (part.strip().lower() for part in content_types[0].split(";"))
    charset = next((value.strip('" ') for value in parameters if value.startswith("charset=")), "charset=utf-8")
    if kind != "application/json" or charset.removeprefix("charset=").strip('"') not in ("utf-8", "utf8"):
        raise UnsupportedMediaType


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body may have at most {limit} bytes; send large media by URL.", headers={"Connection": "close"}
    )


def _too_deep() -> MalformedJson:
    return MalformedJson(f"The body nests objects and lists deeper than {MAX_DEPTH} levels.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise MalformedJson(f"The body gives the name {twice[:64]!a} twice in one object.")
    return found


def _number(text: str) -> int | float:
    number = float(text)
    if not math.isfinite(number):
        raise MalformedJson(f"The number {text[:40]} is out of range.")
    return int(number) if number.is_integer() and abs(number) < _EXACT_IN_A_FLOAT else number


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"{name} is not JSON; send a number, or leave the field out.")


def _inspect(document: Any) -> None:
    waiting: list[tuple[Any, int]] = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            _require_storable(value)
        elif isinstance(value, dict | list):
            if depth == MAX_DEPTH:
                raise _too_deep()
            if isinstance(value, dict):
                waiting += [(name, depth) for name in value]
                value = value.values()
            waiting += [(item, depth + 1) for item in value]


def _require_storable(text: str) -> None:
    if "\0" in text:
        raise MalformedJson("The body has a string with the NUL character (\\u0000), which no field takes.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise MalformedJson("The body has a string with half of a surrogate pair.") from None
