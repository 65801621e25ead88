"""Pydantic's errors as problems a caller can act on: a JSON path, a sentence, what is allowed, what is nearest.

No message repeats more than a few characters of what was sent.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeGuard, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from core.errors import FieldProblem, InvalidInput

MAX_PROBLEMS = 20
"""How many problems one refusal lists."""

URL_TAG, INLINE_TAG = "<url>", "<inline>"
"""Names of the two forms of a media reference inside pydantic; they are no part of a JSON path."""

ALLOWED = "x-allowed"
"""Where a field's JSON Schema says what may be sent, when JSON Schema's own words are too few or too many."""

_MAX_SHOWN = 40
_NOUNS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}
_BOUNDS = (
    "type",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "pattern",
    "required",
)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_NUMERAL = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")

ModelT = TypeVar("ModelT", bound=BaseModel)


def validated(model: type[ModelT], raw: object, root: str = "input") -> ModelT:
    """`raw` (parsed JSON) as `model`.

    Raises:
        InvalidInput: with one problem per field at fault, paths beginning with `root`.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise refusal(problems(error, model, root)) from None


def refusal(found: Sequence[FieldProblem]) -> InvalidInput:
    """The error for one or more problems; its message is the first of them."""
    more = len(found) - 1
    tail = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
    return InvalidInput(f"{found[0].path}: {found[0].message}{tail}", fields=found)


def problems(error: ValidationError, model: type[BaseModel], root: str = "input") -> tuple[FieldProblem, ...]:
    """What pydantic found wrong with a value for `model`, at most `MAX_PROBLEMS` of it, paths beginning with `root`."""
    return tuple(_problem(details, model, root) for details in error.errors(include_url=False)[:MAX_PROBLEMS])


def unknown(path: str, noun: str, given: object, known: Iterable[str]) -> FieldProblem:
    """A name that is none of the `known` ones, with the nearest of them if one is near."""
    names = list(known)
    near = closest(given, names)
    hint = f", did you mean `{near}`?" if near else ""
    return FieldProblem(path, f"unknown {noun} `{_bare(given)}`{hint}", allowed=names, nearest=near)


def closest(given: object, known: Iterable[str]) -> str | None:
    """The known name most like `given`, or None when none is like it; case does not count."""
    if not isinstance(given, str):
        return None
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(given[:100].casefold(), folded, n=1)
    return folded[near[0]] if near else None


def shown(value: object) -> str:
    """`value` for a message, cut short: containers by kind, strings quoted and escaped."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() if abs(value) >= 10**20:
            return "a huge number"
        case int() | float():
            return repr(value)
        case str():
            return f"'{_bare(value)}'"
        case Mapping():
            return "an object"
        case _:
            return "a list"


def _bare(value: object) -> str:
    if not isinstance(value, str):
        return shown(value)
    return repr(value[:_MAX_SHOWN])[1:-1] + ("…" if len(value) > _MAX_SHOWN else "")


def _path(root: str, location: Iterable[int | str]) -> str:
    path = root
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _IDENTIFIER.fullmatch(part):
            path += f".{part}" if path else part
        else:
            path += f"[{json.dumps(part[:_MAX_SHOWN])}]"
    return path


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _forms(model: type[BaseModel], location: Iterable[int | str]) -> list[dict[str, Any]]:
    """The JSON Schemas that the place in `model` named by `location` may follow: several where it is a union."""
    root = _schema(model)

    def forms(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return forms(root["$defs"][node["$ref"].rpartition("/")[2]])
        for union in ("oneOf", "anyOf"):
            if union in node:
                return [form for option in node[union] for form in forms(option) if form.get("type") != "null"]
        return [node]

    nodes = forms(root)
    for part in location:
        key = "items" if isinstance(part, int) else "properties"
        inner: dict[str, Any] = next((node[key] for node in nodes if key in node), {})
        nodes = forms(inner if isinstance(part, int) else inner.get(part, {}))
    return nodes


def _alone(location: Sequence[int | str], value: object) -> object:
    """An input that holds nothing but `value`, at `location`."""
    for part in reversed(location):
        value = [*[None] * part, value] if isinstance(part, int) else {part: value}
    return value


def _accepted(near: Any, model: type[BaseModel], location: Sequence[int | str]) -> Any:
    """`near` if the field at `location` takes it, or what is nearest to it in turn; else None."""
    for _ in range(2):
        if near is None:
            return None
        try:
            model.model_validate(_alone(location, near))
        except ValidationError as error:
            ours = (each for each in error.errors(include_url=False) if each["loc"] == tuple(location))
            refused = next(ours, None)
        else:
            refused = None
        if refused is None:
            return near
        near = _hint(refused.get("ctx", {}))
    return None


def _hint(context: Mapping[str, Any]) -> Any:
    return _plain(next((context[key] for key in ("nearest", "ge", "le") if key in context), None))


def _allowed(forms: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    each = [node.get(ALLOWED) or bounds for node in forms if (bounds := _bounds(node)) is not None]
    return {"anyOf": each} if len(each) > 1 else next(iter(each), None)


def _bounds(node: Mapping[str, Any]) -> dict[str, Any] | None:
    allowed = {key: node[key] for key in _BOUNDS if key in node}
    if isinstance(allowed.get("type"), list):
        allowed["type"] = next(kind for kind in allowed["type"] if kind != "null")
    if "const" in node:
        allowed["enum"] = [node["const"]]
    if "enum" in allowed:
        allowed["enum"] = [choice for choice in allowed["enum"] if choice is not None]
    return allowed or None


def _problem(details: ErrorDetails, model: type[BaseModel], root: str) -> FieldProblem:
    unknown_field = details["type"] == "extra_forbidden"
    last = len(details["loc"]) - 1
    location = [
        part
        for index, part in enumerate(details["loc"])
        if part not in (URL_TAG, INLINE_TAG) or (unknown_field and index == last)
    ]
    path, given, context = _path(root, location), details["input"], details.get("ctx", {})
    if unknown_field:
        known = [name for form in _forms(model, location[:-1]) for name in form.get("properties", ())]
        return unknown(path, "field", location[-1], known)
    forms = _forms(model, location)
    node = forms[0] if len(forms) == 1 else {}
    bounds, allowed = _bounds(node), _allowed(forms)
    if details["type"].endswith("_type") and bounds is not None:
        return FieldProblem(
            path,
            f"must be {_NOUNS[bounds['type']]}, not {shown(given)}",
            allowed=allowed,
            nearest=_accepted(_nearest_number(given, bounds), model, location),
        )
    if (
        details["type"] in ("literal_error", "int_parsing_size", "string_unicode")
        and bounds is not None
        and "enum" in bounds
    ):
        choices = bounds["enum"]
        message = f"must be one of {', '.join(map(str, choices))}, not {shown(given)}"
        return FieldProblem(path, message, allowed=allowed, nearest=_nearest_choice(given, choices, node))
    sentence = _SENTENCES.get(details["type"])
    message = sentence(context, given) if sentence else details["msg"]
    return FieldProblem(path, message, allowed=allowed, nearest=_hint(context))


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _counted(count: int, given: object) -> str:
    noun = "character" if isinstance(given, str) else "item"
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _too_short(context: Mapping[str, Any], given: Any) -> str:
    return f"must have at least {_counted(context['min_length'], given)}, not {len(given)}"


def _too_long(context: Mapping[str, Any], given: Any) -> str:
    return f"must have at most {_counted(context['max_length'], given)}, not {len(given)}"


_SENTENCES: dict[str, Callable[[Mapping[str, Any], Any], str]] = {
    "missing": lambda context, given: "is required",
    "greater_than_equal": lambda context, given: f"must be at least {_plain(context['ge'])}, not {shown(given)}",
    "greater_than": lambda context, given: f"must be greater than {_plain(context['gt'])}, not {shown(given)}",
    "less_than_equal": lambda context, given: f"must be at most {_plain(context['le'])}, not {shown(given)}",
    "less_than": lambda context, given: f"must be less than {_plain(context['lt'])}, not {shown(given)}",
    "finite_number": lambda context, given: f"must be a finite number, not {shown(given)}",
    "string_too_short": _too_short,
    "string_too_long": _too_long,
    "too_short": _too_short,
    "too_long": _too_long,
    "string_unicode": lambda context, given: "has a field name that is not valid Unicode",
}


def _is_number(value: object) -> TypeGuard[int | float]:
    return not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    )


def _nearest_number(given: object, allowed: Mapping[str, Any]) -> int | float | None:
    """The value of the right type that was probably meant: "160" and 160.5 for an integer are 160."""
    if allowed["type"] not in ("integer", "number"):
        return None
    if isinstance(given, str) and _NUMERAL.fullmatch(given):
        given = float(given)
    if not _is_number(given):
        return None
    number: int | float = int(given) if allowed["type"] == "integer" or given == int(given) else given
    low: int | float = allowed.get("minimum", number)
    high: int | float = allowed.get("maximum", number)
    return min(max(number, low), high)


def _nearest_choice(given: object, choices: Sequence[Any], node: Mapping[str, Any]) -> Any:
    numbers = [choice for choice in choices if isinstance(choice, int | float)]
    if numbers and _is_number(given):
        return min(numbers, key=lambda choice: abs(choice - given))
    return closest(given, [choice for choice in choices if isinstance(choice, str)]) or node.get("default")
