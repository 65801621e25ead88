"""A request's large parts travel by reference: here they arrive at the engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import ray


async def arrived(request: Any) -> Any:
    """`request` (a dataclass) with every object reference in its tuples replaced by what it stands for.

    Raises:
        RayError: one of them is lost.
    """
    if not dataclasses.is_dataclass(request) or isinstance(request, type):
        return request
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if isinstance(value, tuple) and any(isinstance(each, ray.ObjectRef) for each in value):
            changes[field.name] = tuple([await each if isinstance(each, ray.ObjectRef) else each for each in value])
    return dataclasses.replace(request, **changes) if changes else request
