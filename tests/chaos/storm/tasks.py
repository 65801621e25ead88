"""What the storm's Ray tasks do: the service's own small work in a process that wears the disguise, and some of its own."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from typing import Any

import ray

from core.settings import Settings
from storage import factory
from tests.chaos.storm import disguise

CPU_SHARE = 0.25


def run(module: str, name: str, *arguments: Any) -> Any:
    """Call the function `name` of `module`."""
    function = getattr(importlib.import_module(module), name)
    disguise.wear()
    return function(*arguments)


class Troubled:
    """In the place of what `cluster.work` makes of a function: the same task, in disguise."""

    def __init__(self, function: Callable[..., Any], returns: int) -> None:
        self._place = (function.__module__, function.__name__)
        self._task: Any = ray.remote(num_cpus=CPU_SHARE, max_retries=0, num_returns=returns)(run)

    def remote(self, *arguments: Any) -> Any:
        """Start it."""
        return self._task.remote(*self._place, *arguments)


def draw(made: Any) -> bytes:
    """The checkpoint of a run: what its pixels are, many times over."""
    return bytes(made.pixels.tobytes()) * 20


def read(key: str, sha256: str) -> bytes:
    """The checkpoint under `key`, if it is what was written.

    Raises:
        ValueError: it is something else.
    """
    content: bytes = factory.open_store(Settings(), base_url="").read(key)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{key} is not what was written")
    return content
