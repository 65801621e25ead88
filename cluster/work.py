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
from tasks.media_fields import decode_inline

_CPU_SHARE = 0.25
_FETCH_SECONDS = 30.0


@cache
def _task(function: Callable[..., Any]) -> Any:
    return ray.remote(num_cpus=_CPU_SHARE, max_retries=0)(function)


def remote(function: Callable[..., Any], *arguments: Any) -> Any:
    """Start `function` as a Ray task that Ray never retries; returns the reference to its result."""
    return _task(function).remote(*arguments)


def fetch_image(reference: str | dict[str, str]) -> Any:
    """The picture behind a URL or an inline object: uint8 sRGB of shape (height, width, 3).

    Raises:
        FetchFailed: the URL could not be fetched.
        MediaError: it is no picture that we take.
    """
    if isinstance(reference, str):
        fetched = asyncio.run(
            egress.fetch(
                reference,
                max_bytes=image.MAX_BYTES,
                timeout_s=_FETCH_SECONDS,
                allow=parse_allowed(Settings().egress_allow),
                accept=", ".join(image.MIME_TYPES.values()),
            )
        )
        return image.open_image(fetched.data).pixels
    return image.open_image(decode_inline(reference["dataBase64"])).pixels


def size_of(pixels: Any) -> tuple[int, int]:
    """Width and height of a picture."""
    return pixels.shape[1], pixels.shape[0]


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
