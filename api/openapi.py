"""`/openapi.json`: the OpenAPI 3.1 description, made from the operations that answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from importlib.metadata import version
from itertools import groupby
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.responses import Response

from api.auth import KEY
from api.call import Call
from api.idempotency import HEADERS, MAX_CHARACTERS
from api.models import Answer, Query
from api.routing import NoQuery, Operation, operation
from core.errors import (
    ApiError,
    InsufficientBalance,
    MethodNotAllowed,
    OverMaxCost,
    RangeNotSatisfiable,
    RateLimited,
    Unauthorized,
    UploadConflict,
)

_REF = "#/components/schemas/{model}"
_JSON = "application/json"
_DETAILS = {InsufficientBalance: ("neededUsd", "availableUsd", "topUpUrl"), OverMaxCost: ("amountUsd", "maxCostUsd")}
_RATE = ["RateLimit", "RateLimit-Policy"]
_ERROR_HEADERS = {
    MethodNotAllowed: "Allow",
    RangeNotSatisfiable: "Content-Range",
    Unauthorized: "WWW-Authenticate",
    UploadConflict: "Retry-After",
}
_NO_CONTENT = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED, HTTPStatus.TEMPORARY_REDIRECT}
_HEADERS = {
    "X-Request-Id": "Names this request in our logs; sent back when you send one.",
    "Location": "Where the job is read, or the file.",
    "Idempotency-Replayed": "true when this is the answer that an earlier request with the same key got.",
    "Retry-After": "Seconds to wait before the next try.",
    "RateLimit": "Under the policy named: r requests are left; t seconds until more come back.",
    "RateLimit-Policy": "The policy named: q requests in any w seconds.",
    "Preference-Applied": "The wait that was asked for and kept.",
    "WWW-Authenticate": "The scheme to use: Bearer.",
    "Allow": "The methods that the path answers.",
    "ETag": "The content's SHA-256, in quotes: for If-None-Match and If-Range.",
    "Accept-Ranges": "bytes: a Range is served.",
    "Content-Range": "Which bytes these are, and of how many; with 416, of how many alone.",
    "Content-Disposition": "The name to keep the file under.",
    "Content-Security-Policy": "sandbox: a browser that shows the file runs nothing in it.",
    "X-Content-Type-Options": "nosniff: the file is of the type that it is said to be.",
}

_STREAMED = {
    "text/event-stream": {
        "type": "object",
        "description": "Each event of the stream.",
        "required": ["id", "event", "data"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]+$", "description": "The job's sequence."},
            "event": {"type": "string", "enum": ["state", "stage", "progress", "preview", "cancel_requested"]},
            "data": {"type": "string", "contentMediaType": _JSON, "description": "A JSON object: what is new."},
            "retry": {"type": "integer", "description": "Milliseconds to wait before a lost stream is resumed."},
        },
    }
}


def document(operations: Iterable[Operation], base_url: str) -> dict[str, Any]:
    """The description of `operations`, served at `base_url`."""
    found = list(operations)
    modes: list[tuple[Any, JsonSchemaMode]] = []
    for each in found:
        modes += [(form, "validation") for form in each.forms or ([each.body] if each.body else [])]
        modes += [(answer, "serialization") for answer in (each.answer, *each.also.values()) if answer]
    references, definitions = models_json_schema(list(dict.fromkeys(modes)), ref_template=_REF)
    schemas = definitions.get("$defs", {})
    errors = sorted({error for each in found for error in each.errors} | {MethodNotAllowed}, key=lambda e: e.__name__)
    paths: dict[str, dict[str, Any]] = {}
    for each in found:
        path = re.sub(r"{(\w+):\w+}", r"{\1}", each.path)
        paths.setdefault(path, {})[each.method.lower()] = _entry(each, references, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Killa Tamata",
            "version": version("killatamata"),
            "summary": "Images, video, sound and 3D models as prepaid, durable jobs.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base_url}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, **_error_schemas(errors)},
            "responses": {error.__name__: _response([error], error is not MethodNotAllowed) for error in errors},
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer <API key>"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "eventToken": {"type": "apiKey", "in": "query", "name": "token", "description": "Part of eventsUrl."},
            },
        },
    }


def _entry(each: Operation, references: dict[Any, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    summary, _, rest = each.summary.partition(". ")
    entry: dict[str, Any] = {
        "operationId": each.name,
        "summary": summary.rstrip("."),
        "tags": [each.tag],
        "parameters": [
            *_path_parameters(each.path),
            *_query_parameters(each.query),
            *(_header_parameter(name, text) for name, text in each.headers.items()),
        ],
        "responses": {
            str(int(status)): _success(each, status, answer, references)
            for status, answer in {each.status: each.answer, **each.also}.items()
        },
    }
    if rest:
        entry["description"] = rest
    if each.public:
        entry["security"] = []
    elif each.access is not KEY:
        entry["security"] = [{scheme: []} for scheme in each.access.schemes]
    if each.writes and not each.public:
        entry["parameters"].append(_idempotency_parameter())
    if each.body is not None:
        named = [references[form, "validation"] for form in each.forms or [each.body]]
        entry["requestBody"] = {"required": True, "content": {_JSON: _body(named, schemas, bool(each.forms))}}
    if each.raw:
        entry["requestBody"] = {"required": True, "content": {"*/*": {}}}
    limited = RateLimited in each.errors
    for status, errors in groupby(each.errors, key=lambda error: error.status):
        classes = list(errors)
        shared = len(classes) == 1 and limited
        reference = {"$ref": f"#/components/responses/{classes[0].__name__}"}
        entry["responses"][str(status)] = reference if shared else _response(classes, limited)
    return entry


def _success(
    each: Operation, status: HTTPStatus, answer: type[BaseModel] | None, references: dict[Any, Any]
) -> dict[str, Any]:
    headers = ["X-Request-Id"]
    headers += _RATE if RateLimited in each.errors else []
    headers += ["Location"] if status == 202 else []
    headers += ["Idempotency-Replayed"] if each.writes and not each.public else []
    headers += ["Preference-Applied"] if "Prefer" in each.headers and status == 200 else []
    headers += each.answer_headers.get(status, ())
    found: dict[str, Any] = {"description": status.phrase, "headers": _header_references(headers)}
    if answer is not None:
        others = answer.also_as if issubclass(answer, Answer) else ()
        texts = {media_type: {"schema": {"type": "string"}} for media_type in others}
        found["content"] = {_JSON: {"schema": references[answer, "serialization"]}} | texts
    elif status not in _NO_CONTENT:
        found["content"] = {
            each.media_type: {"schema": _STREAMED[each.media_type]} if each.media_type in _STREAMED else {}
        }
    return found


def _body(named: Sequence[dict[str, Any]], schemas: dict[str, Any], told_apart: bool) -> dict[str, Any]:
    if not told_apart:
        return {"schema": named[0]}
    tasks: dict[str, str] = {}
    examples: dict[str, Any] = {}
    for reference in named:
        form = _resolved(reference, schemas)["properties"]
        task = form["task"]["const"]
        tasks[task] = reference["$ref"]
        for number, example in enumerate(_resolved(form["input"], schemas).get("examples", []), 1):
            examples[f"{task} {number}"] = {"value": {"task": task, "input": example}}
    discriminator = {"propertyName": "task", "mapping": tasks}
    return {"schema": {"oneOf": list(named), "discriminator": discriminator}, "examples": examples}


def _resolved(node: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    resolved: dict[str, Any] = schemas[node["$ref"].rpartition("/")[2]]
    return resolved


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(query: type[Query]) -> list[dict[str, Any]]:
    schema = query.model_json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": node.pop("description", ""),
            "schema": node | ({"type": node["type"][0]} if isinstance(node["type"], list) else {}),
        }
        for name, node in schema.get("properties", {}).items()
        if not node.pop("x-credential", False)
    ]


def _header_parameter(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}


def _idempotency_parameter() -> dict[str, Any]:
    return {
        "name": HEADERS[0],
        "in": "header",
        "required": False,
        "description": f"Makes a retry safe: the same key with the same body gets the first answer. Also: {HEADERS[1]}.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS},
    }


def _header_references(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _response(errors: Sequence[type[ApiError]], limited: bool) -> dict[str, Any]:
    headers = ["X-Request-Id"]
    headers += ["Retry-After"] if any(error.retry_after_seconds is not None for error in errors) else []
    headers += [name for error, name in _ERROR_HEADERS.items() if error in errors]
    headers += _RATE if limited or {RateLimited, Unauthorized} & set(errors) else []
    named = [{"$ref": _REF.format(model=error.__name__)} for error in errors]
    return {
        "description": " · ".join(f"`{error.code}`: {error.__doc__}" for error in errors),
        "headers": _header_references(headers),
        "content": {_JSON: {"schema": named[0] if len(named) == 1 else {"oneOf": named}}},
    }


def _error_schemas(errors: Iterable[type[ApiError]]) -> dict[str, Any]:
    schemas: dict[str, Any] = {
        "FieldProblem": {
            "type": "object",
            "description": "One field that was refused.",
            "required": ["path", "message"],
            "properties": {
                "path": {"type": "string", "examples": ["input.referenceImages[1].mimeType"]},
                "message": {"type": "string"},
                "allowed": {"description": "What the field may hold."},
                "nearest": {"description": "The closest value, or field name, that would be accepted."},
            },
        }
    }
    for error in errors:
        details: dict[str, Any] = {"message": {"type": "string", "description": "What to do, in one sentence."}}
        details |= {name: {"type": "string"} for name in _DETAILS.get(error, ())}
        if error.status == 422:
            details["fields"] = {"type": "array", "items": {"$ref": _REF.format(model="FieldProblem")}}
        schemas[error.__name__] = {
            "type": "object",
            "description": error.__doc__,
            "required": ["error", "details"],
            "properties": {
                "error": {"const": error.code},
                "details": {"type": "object", "required": ["message"], "properties": details},
            },
        }
    return schemas


@operation("GET", "/openapi.json", tag="service", answer=None, public=True, limited=False)
async def openapi(call: Call[None, NoQuery]) -> Response:
    """Read this description."""
    headers = {"Cache-Control": "public, max-age=300"}
    return Response(call.request.app.state.openapi, headers=headers, media_type=_JSON)
