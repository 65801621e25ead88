"""The least that each task takes, and how a test asks for more or is refused."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import FieldProblem, InvalidInput
from tasks.base import Prepared
from tasks.registry import TASKS

URL = "https://cdn.example.com/input/a.webp"
TEXT = "We launch at dawn, hold formation, and bring everyone home safely."
VOICE = "Warm confident narrator with balanced pacing."

LEAST: dict[str, dict[str, Any]] = {
    "image.generate": {"prompt": "a fox"},
    "image.edit": {"prompt": "in noir", "sourceImage": URL},
    "video.generate": {"prompt": "a slow push-in"},
    "video.combine": {"videoUrls": [URL, URL]},
    "audio.speak": {"text": TEXT, "voiceDescription": VOICE},
    "audio.annotation.reference": {"sourceAudio": URL},
    "ace.step.create": {"tags": "electro-pop"},
    "moss.sound.effect": {"prompt": "a shot"},
    "trellis.generate": {"sourceImage": URL},
}
CLONE = {"mode": "voice_clone", "text": TEXT, "referenceAudio": URL, "referenceTranscript": "She keeps her voice low."}


def by_url(value: Any) -> Any:
    """`value` with a URL in place of every inline file."""
    match value:
        case {"dataBase64": _}:
            return URL
        case dict():
            return {name: by_url(each) for name, each in value.items()}
        case list():
            return [by_url(each) for each in value]
        case _:
            return value


def prepare(task: str, *, strict: Any = False, **fields: Any) -> Prepared:
    """The least input of `task` with `fields` besides."""
    return TASKS[task].prepare({**LEAST[task], **fields}, strict=strict)


def refused_input(task: str, raw: object, *, strict: bool = False) -> tuple[FieldProblem, ...]:
    """The problems of exactly `raw`."""
    with pytest.raises(InvalidInput) as caught:
        TASKS[task].prepare(raw, strict=strict)
    assert caught.value.fields
    assert caught.value.fields[0].path in caught.value.message
    return caught.value.fields


def refused(task: str, *, strict: Any = False, **fields: Any) -> dict[str, FieldProblem]:
    """The problems, by path, of the least input of `task` with `fields` besides."""
    found = refused_input(task, {**LEAST[task], **fields}, strict=strict)
    return {problem.path: problem for problem in found}
