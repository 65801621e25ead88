"""One pricing rule per task. A new task's rule is a function and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from pricing import audio, images, meshes, videos
from pricing.book import PriceBook
from pricing.quotes import Quote

Rule: TypeAlias = Callable[[Mapping[str, Any], PriceBook], Quote]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "image.generate": images.image_generate,
        "image.edit": images.image_edit,
        "video.generate": videos.video_generate,
        "video.combine": videos.video_combine,
        "audio.speak": audio.audio_speak,
        "audio.annotation.reference": audio.annotation_reference,
        "ace.step.create": audio.ace_step_create,
        "moss.sound.effect": audio.moss_sound_effect,
        "trellis.generate": meshes.trellis_generate,
    }
)
"""The rule of every task, by the task's name."""


def quote(task_name: str, effective_input: Mapping[str, Any], book: PriceBook) -> Quote:
    """The price of a task on an effective input, after `book`.

    Raises:
        KeyError: no such task; `tasks.registry.task` refuses one that a caller names.
    """
    return RULES[task_name](effective_input, book)
