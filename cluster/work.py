"""What Ray tasks do: small CPU work on bytes, in worker processes of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

import ray

from core import egress
from core.addresses import parse_allowed
from core.settings import Settings
from media import image
from storage.factory import open_store

_CPU_SHARE = 0.25
_FETCH_SECONDS = 30.0


@cache
def _task(function: Callable[..., Any], returns: int) -> Any:
    return ray.remote(num_cpus=_CPU_SHARE, max_retries=0, num_returns=returns)(function)


def remote(function: Callable[..., Any], *arguments: Any, returns: int = 1) -> Any:
    """Start `function` as a Ray task that Ray never retries; returns the reference to its result.

    With more than one of `returns` the result is a tuple of so many, and there is a reference to each.
    """
    return _task(function, returns).remote(*arguments)


def fetch_image(url: str) -> tuple[tuple[int, int], Any]:
    """The picture behind a URL: its (width, height), and its pixels, uint8 sRGB of shape (height, width, 3).

    Raises:
        FetchFailed: the URL could not be fetched.
        MediaError: it is no picture that we take.
    """
    fetched = asyncio.run(
        egress.fetch(
            url,
            max_bytes=image.MAX_BYTES,
            timeout_s=_FETCH_SECONDS,
            allow=parse_allowed(Settings().egress_allow),
            accept=", ".join(image.MIME_TYPES.values()),
        )
    )
    return _opened(fetched.data)


def read_image(key: str) -> tuple[tuple[int, int], Any]:
    """The stored picture, as `fetch_image` gives one.

    Raises:
        MissingObject: nothing is there.
        StoreUnavailable: the store fails.
        MediaError: it is no picture that we take.
    """
    return _opened(open_store(Settings(), base_url="").read(key))


def _opened(data: bytes) -> tuple[tuple[int, int], Any]:
    pixels = image.open_image(data).pixels
    return (pixels.shape[1], pixels.shape[0]), pixels


def encode_image(result: Any, image_format: image.Format, width: int, height: int) -> bytes:
    """Encode an engine's picture at the promised canvas."""
    return image.encode(result.pixels, image_format, size=(width, height))


def publish(key: str, content: bytes, mime_type: str) -> dict[str, Any]:
    """Store `content` under `key`; returns the artifact as jobs record it."""
    artifact = open_store(Settings(), base_url="").put(key, content, mime_type)
    return {
        "key": artifact.key,
        "mimeType": artifact.mime_type,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
    }
