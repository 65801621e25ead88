"""The tasks there are, by name. A new one is a module and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tasks.ace_step_create import AceStepCreate
from tasks.audio_annotation_reference import AudioAnnotationReference
from tasks.audio_speak import AudioSpeak
from tasks.base import Task
from tasks.image_edit import ImageEdit
from tasks.image_generate import ImageGenerate
from tasks.moss_sound_effect import MossSoundEffect
from tasks.trellis_generate import TrellisGenerate
from tasks.validation import refusal, unknown
from tasks.video_combine import VideoCombine
from tasks.video_generate import VideoGenerate

_ALL: tuple[Task[Any], ...] = (
    ImageGenerate(),
    ImageEdit(),
    VideoGenerate(),
    VideoCombine(),
    AudioSpeak(),
    AudioAnnotationReference(),
    AceStepCreate(),
    MossSoundEffect(),
    TrellisGenerate(),
)

TASKS: Mapping[str, Task[Any]] = MappingProxyType({each.name: each for each in _ALL})
"""Every task by its name on the wire."""


def task(name: object) -> Task[Any]:
    """The task called `name`.

    Raises:
        InvalidInput: there is none, or `name` is no string; the problem's path is `task`.
    """
    found = TASKS.get(name) if isinstance(name, str) else None
    if found is None:
        raise refusal([unknown("task", "task", name, TASKS)])
    return found
