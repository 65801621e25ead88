"""What Ray tasks do: small CPU work on bytes, in worker processes of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import ray

from core import egress
from core.addresses import parse_allowed
from core.settings import Settings
from media import image, preview
from media.provenance import Recipe
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


def encode_picture(
    result: Any, image_format: image.Format, size: tuple[int, int], recipe: Recipe
) -> tuple[bytes, preview.Preview]:
    """An engine's picture as a file of the promised `size` (width, height), and its preview.

    The file tells its recipe, unless the setting `provenance` is off.
    """
    xmp = recipe.as_xmp() if Settings().provenance else None
    return image.encode(result.pixels, image_format, size=size, xmp=xmp), preview.preview(result.pixels, size)


def publish(folder: str, files: Sequence[tuple[str, str]], *contents: bytes) -> list[dict[str, Any]]:
    """Store each content in `folder` under the name and the MIME type at its place; returns the artifacts, as jobs do."""
    store = open_store(Settings(), base_url="")
    artifacts = [
        store.put(f"{folder}/{name}", content, mime_type)
        for (name, mime_type), content in zip(files, contents, strict=True)
    ]
    return [
        {"key": each.key, "mimeType": each.mime_type, "bytes": each.bytes, "sha256": each.sha256} for each in artifacts
    ]
