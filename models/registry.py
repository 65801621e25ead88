"""Which engines exist, and which tiny weights can be built. Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from models.base import Engine

ENGINES: Mapping[str, str] = {
    "ltx-video": "models.ltx_video:LtxVideo",
    "qwen-image": "models.qwen_image:QwenImage",
    "qwen-image-edit": "models.qwen_image_edit:QwenImageEdit",
}
"""Engine name to `module:Class`."""

TINY: Mapping[str, str] = {
    "ltx-video": "models.tiny_ltx_video:build",
    "ltx-video-lora": "models.tiny_ltx_video:build_lora",
    "qwen-image": "models.tiny_qwen_image:build",
    "qwen-image-edit": "models.tiny_qwen_image:build_edit",
    "qwen-image-lora": "models.tiny_qwen_image:build_lora",
}
"""Name of tiny weights to `module:function`; the function writes them into the empty folder that it is given."""


class UnknownEngine(LookupError):
    """No engine has this name."""


def engine(name: str, options: Mapping[str, Any] | None = None) -> Engine[Any, Any]:
    """A new engine without weights. Imports its module, and with it no model library.

    Raises:
        UnknownEngine: `name` is not in `ENGINES`.
        ValidationError: `options` are not those of the engine.
    """
    target = ENGINES.get(name)
    if target is None:
        raise UnknownEngine(f"There is no engine {name!r}; use one of: {', '.join(sorted(ENGINES))}.")
    return cast("Engine[Any, Any]", load_object(target)(options))


def load_object(target: str) -> Any:
    """The object that `module:name` stands for."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
