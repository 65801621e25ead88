"""Bytes from outside as values we dare to handle: a bounded body, strict JSON, known query fields."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request

from api.room import Guest
from core.errors import BodyTooLarge, BodyTooSlow, FieldProblem, InvalidInput, MalformedJson, UnsupportedMediaType
from tasks.long_text import LongText
from tasks.validation import refusal, validated

MAX_DEPTH = 32
"""How deep objects and lists may nest."""
MAX_MARKS = 50_000
"""How many commas and opening brackets a body may hold: megabytes of tiny values would take gigabytes as objects."""
MAX_REST_BYTES = 8_000_000
"""How large a body may be without its long `dataBase64`: it is parsed in one go, which holds up the whole process."""
LONG_BYTES = 1 << 16
"""From this size on, a `dataBase64` becomes a `LongText`."""
SILENCE_SECONDS = 30.0
BODY_SECONDS = 600.0
LARGE_BYTES = 1_000_000
"""A body of more, declared or received, must come at `LEAST_BYTES_A_SECOND` on average once `GRACE_SECONDS` are over."""
GRACE_SECONDS = 10.0
LEAST_BYTES_A_SECOND = 64_000

_BACKSLASH = ord("\\")
# In valid JSON, and after no backslash, these bytes end with the quote that opens the value of that name: inside a string
# both quotes would be escaped.
_OPENING = re.compile(rb'"dataBase64"[ \t\r\n]*:[ \t\r\n]*"')
_EXACT_IN_A_FLOAT = 2**53

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A parsed body. `fingerprint` is the SHA-256 of its canonical JSON without `idempotencyKey`; `size` is in bytes."""

    value: dict[str, Any]
    fingerprint: bytes
    size: int


async def read(request: Request, limit: int, guest: Guest) -> bytearray:
    """The body of a request that says it is JSON; `guest` takes the room for it.

    Raises:
        UnsupportedMediaType: it says otherwise.
        BodyTooLarge: more than `limit` bytes, declared or sent.
        BodyTooSlow: nothing came for `SILENCE_SECONDS`, or not all of it within `BODY_SECONDS`, or it is large and slow.
        MalformedJson: more values than any request needs.
        Overloaded: there is no room for it.
    """
    _require_json(request.headers.getlist("content-type"))
    length = request.headers.get("content-length", "")
    declared = int(length) if length.isdecimal() else 0
    if declared > limit:
        raise _too_large(limit)
    body = bytearray()
    marks = 0
    began = asyncio.get_running_loop().time()

    def patience() -> float:
        now = asyncio.get_running_loop().time()
        large = max(declared, len(body)) > LARGE_BYTES
        pace = began + GRACE_SECONDS + len(body) / LEAST_BYTES_A_SECOND if large else math.inf
        return min(now + SILENCE_SECONDS, began + BODY_SECONDS, pace)

    try:
        async with asyncio.timeout_at(patience()) as patient:
            async for chunk in request.stream():
                if not chunk:
                    continue
                guest.take(len(chunk))
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
                marks += sum(map(chunk.count, (b",", b"[", b"{")))
                if marks > MAX_MARKS:
                    raise MalformedJson("The body holds more values than any request needs; send fewer.")
                patient.reschedule(patience())
    except TimeoutError:
        raise BodyTooSlow(headers={"Connection": "close"}) from None
    return body


def parse(body: bytes | bytearray) -> Document:
    """The JSON object in `body`; what is a string there is a `str` here, or a `LongText` in a long `dataBase64`.

    Raises:
        MalformedJson: no strict JSON (RFC 8259), a name given twice, nested too deep, or text no database can hold.
        InvalidInput: JSON, but no object.
        BodyTooLarge: too much beside the long `dataBase64`.
    """
    rest, aside = _set_aside(body)
    if len(rest) > MAX_REST_BYTES:
        raise _too_large(MAX_REST_BYTES, " beside its inline media")
    try:
        value = json.loads(
            rest.decode(),
            object_pairs_hook=lambda pairs: _object(pairs, aside),
            parse_float=_number,
            parse_constant=_refuse_constant,
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
    return Document(value, _fingerprint(counted, aside), len(body))


def query(params: QueryParams, model: type[ModelT]) -> ModelT:
    """The query string as `model`.

    Raises:
        InvalidInput: a field is unknown, given twice, or holds something else than it should.
    """
    twice = [name for name in params if len(params.getlist(name)) > 1]
    if twice:
        raise refusal([FieldProblem(name[:64], "is given more than once") for name in twice[:20]])
    return validated(model, dict(params), root="")


def _set_aside(body: bytes | bytearray) -> tuple[bytes | bytearray, dict[str, LongText]]:
    """The body with a mark in place of every long `dataBase64`, and what each of the marks stands for."""
    parts: list[bytes | memoryview] = []
    aside: dict[str, LongText] = {}
    view, done, found, secret = memoryview(body), 0, -1, secrets.token_hex(16)
    while (found := body.find(b'"dataBase64"', found + 1)) >= 0:
        opening = _OPENING.match(body, found)
        if opening is None or body[found - 1] == _BACKSLASH:
            continue
        start = opening.end()
        end = body.find(b'"', start)
        if end - start < LONG_BYTES or body[end - 1] == _BACKSLASH:
            continue
        mark = f"{secret}:{len(aside)}"
        aside[mark] = LongText(view[start:end])
        parts += [view[done:start], mark.encode()]
        done = found = end
    return (b"".join([*parts, view[done:]]), aside) if aside else (body, aside)


def _fingerprint(counted: dict[str, Any], aside: dict[str, LongText]) -> bytes:
    marks = {text: mark for mark, text in aside.items()}
    canonical = json.dumps(counted, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=marks.get)
    digest = hashlib.sha256()
    for part in re.split(f"({'|'.join(aside)})", canonical) if aside else [canonical]:
        text = aside.get(part)
        if text is None:
            digest.update(part.encode())
            continue
        try:
            for piece in text.pieces():
                digest.update(json.dumps(piece)[1:-1].encode())
        except ValueError:
            raise MalformedJson("A dataBase64 in the body is no JSON string, or not ASCII; send base64.") from None
    return digest.digest()


def _require_json(content_types: Sequence[str]) -> None:
    if len(content_types) != 1:
        raise UnsupportedMediaType
    kind, *parameters = (part.strip().lower() for part in content_types[0].split(";"))
    charset = next((value.strip('" ') for value in parameters if value.startswith("charset=")), "charset=utf-8")
    if kind != "application/json" or charset.removeprefix("charset=").strip('"') not in ("utf-8", "utf8"):
        raise UnsupportedMediaType


def _too_large(limit: int, where: str = "") -> BodyTooLarge:
    return BodyTooLarge(
        f"The body may have at most {limit} bytes{where}; send large media by URL.", headers={"Connection": "close"}
    )


def _too_deep() -> MalformedJson:
    return MalformedJson(f"The body nests objects and lists deeper than {MAX_DEPTH} levels.")


def _object(pairs: list[tuple[str, Any]], aside: dict[str, LongText]) -> dict[str, Any]:
    found = dict(pairs)
    if aside and isinstance(found.get("dataBase64"), str):
        found["dataBase64"] = aside.get(found["dataBase64"], found["dataBase64"])
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
