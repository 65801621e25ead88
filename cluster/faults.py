"""Where in a job's input the file stands that could not be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from core.egress import FetchFailed
from media.errors import MediaError


@contextmanager
def at(path: str) -> Iterator[None]:
    """A fault of the caller's file in this block is one of what stands at `path` of the input."""
    try:
        yield
    except (MediaError, FetchFailed) as fault:
        fault.path = fault.path or path
        raise
