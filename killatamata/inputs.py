"""From the words of a command line to the input of a job: fields, lists, and files inline or by upload."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import OperatorError
from killatamata.client import Client
from killatamata.media_files import mime_type
from tasks.registry import TASKS

INLINE_BYTES = 45_000_000
"""What all inline files of a job may have together; in base64 it still fits a JSON body of 64 MB."""


class BadInput(OperatorError):
    """An --input or --file cannot be read as one."""


@dataclass(frozen=True, eq=False)
class File:
    """A file that a field of the input holds."""

    field: str
    path: Path
    mime_type: str
    size: int


@dataclass(frozen=True)
class Given:
    """The fields of an input, each with the values given for it in their order; files stand in it as `File`."""

    task: str
    fields: Mapping[str, tuple[Any, ...]]

    @property
    def files(self) -> tuple[File, ...]:
        """Every file, in order."""
        return tuple(value for values in self.fields.values() for value in values if isinstance(value, File))

    def assembled(self, media: Mapping[File, Any]) -> dict[str, Any]:
        """The input as JSON, with what stands in `media` in the place of each file.

        A field that was given more than once, or that is a list in the task's schema, becomes a list.
        """
        lists = _list_fields(self.task)
        found: dict[str, Any] = {}
        for name, values in self.fields.items():
            shown = [media[value] if isinstance(value, File) else value for value in values]
            if len(shown) == 1 and (name not in lists or isinstance(shown[0], list)):
                found[name] = shown[0]
            else:
                found[name] = [item for value in shown for item in (value if isinstance(value, list) else [value])]
        return found


def read(task: str, inputs: Sequence[str], files: Sequence[str]) -> Given:
    """The fields in `inputs` (`name=value`, where JSON is taken as JSON) and `files` (`name=@path`).

    Raises:
        BadInput: one of them has another form.
        UnknownMedia: a file holds no media that a task takes.
        OSError: a file cannot be read.
    """
    fields: dict[str, tuple[Any, ...]] = {}
    for text in inputs:
        name, value = _pair("--input", text, "name=value")
        fields[name] = (*fields.get(name, ()), _value(name, value))
    for text in files:
        name, value = _pair("--file", text, "name=@path")
        if not value.startswith("@"):
            raise BadInput(f"--file takes name=@path, not {text!r}; a URL goes into --input")
        path = Path(value.removeprefix("@")).expanduser()
        kind = mime_type(path, name)
        fields[name] = (*fields.get(name, ()), File(name, path, kind, path.stat().st_size))
    return Given(task, fields)


async def complete(given: Given, api: Client, idempotency_key: str) -> dict[str, Any]:
    """The input to send: small files inline, the others uploaded (each under a key derived from `idempotency_key`)."""
    inline = inlined(given.files)
    media: dict[File, Any] = {}
    for number, file in enumerate(given.files):
        if file in inline:
            content = await asyncio.to_thread(file.path.read_bytes)
            media[file] = {"dataBase64": base64.b64encode(content).decode(), "mimeType": file.mime_type}
        else:
            key = hashlib.sha256(f"{idempotency_key}/{number}".encode()).hexdigest()
            media[file] = await api.upload(file.path, file.mime_type, idempotency_key=key)
    return given.assembled(media)


def inlined(files: Sequence[File], budget: int = INLINE_BYTES) -> set[File]:
    """The files that go inline: the smallest first, `budget` bytes in all; none of a field that takes only URLs."""
    chosen: set[File] = set()
    for file in sorted(files, key=lambda each: each.size):
        if not file.field.endswith(("Url", "Urls")) and file.size <= budget:
            chosen.add(file)
            budget -= file.size
    return chosen


def _pair(option: str, text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadInput(f"{option} takes {form}, not {text!r}")
    return name, value


def _value(name: str, text: str) -> Any:
    try:
        text.encode()
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadInput(f"--input {name} is not valid Unicode") from None
    except RecursionError:
        raise BadInput(f"--input {name} is nested too deeply") from None
    except ValueError:
        return text
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _list_fields(task: str) -> frozenset[str]:
    if task not in TASKS:
        return frozenset()
    schema: dict[str, Any] = TASKS[task].Input.model_json_schema()
    return frozenset(name for name, node in schema["properties"].items() if _is_list(node))


def _is_list(node: Mapping[str, Any]) -> bool:
    kinds = node.get("type", ())
    return "array" in ([kinds] if isinstance(kinds, str) else kinds) or any(map(_is_list, node.get("anyOf", ())))
