"""What Ray tasks do: small CPU work on bytes, in worker processes of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import ray

from core import egress
from core.addresses import parse_allowed
from core.settings import Settings
from deployments import clips
from deployments.clips import Film, StoredClip
from media import image, kinds, preview, sound
from media.clip import SAMPLE_RATE, fitted
from media.normalise import Change
from media.provenance import Recipe
from storage.factory import open_store

_CPU_SHARE = 0.25
_FETCH_SECONDS = 30.0


@cache
def _task(function: Callable[..., Any], returns: int | Literal["streaming"]) -> Any:
    return ray.remote(num_cpus=_CPU_SHARE, max_retries=0, num_returns=returns)(function)


def remote(function: Callable[..., Any], *arguments: Any, returns: int | Literal["streaming"] = 1) -> Any:
    """Start `function` as a Ray task that Ray never retries; returns the reference to its result.

    With more than one of `returns` the result is a tuple of so many, and there is a reference to each. A generator is
    `streaming`: what comes back yields a reference to each of its values.
    """
    return _task(function, returns).remote(*arguments)


@dataclass(frozen=True)
class Decoded:
    """A picture's size in pixels, and what was lost when it was decoded."""

    width: int
    height: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Place:
    """Where a caller's file lies: at a `url`, or under the `key` of our store."""

    url: str | None = None
    key: str | None = None


def picture(place: Place, canvas: tuple[int, int] | None = None) -> tuple[Decoded, Any]:
    """The picture at a place: what it is, and its pixels, uint8 sRGB of shape (height, width, 3).

    With a `canvas` (width, height) the pixels fill it, what stands out is cut evenly.

    Raises:
        FetchFailed: the URL could not be fetched.
        MissingObject: nothing is under the key.
        StoreUnavailable: the store fails.
        MediaError: it is no picture that we take.
    """
    found = image.open_image(_content(place, "image", ", ".join(image.MIME_TYPES.values())))
    height, width, _ = found.pixels.shape
    pixels = found.pixels if canvas is None else image.cover(found.pixels, canvas)
    return Decoded(width, height, found.changes), pixels


def heard(place: Place, samples: int) -> tuple[float, Any]:
    """The sound at a place: its seconds, and float32 of shape (2, samples) at 48 kHz: cut, or silent at its end.

    A second more than the samples is the longest that is told.

    Raises:
        FetchFailed, MissingObject, StoreUnavailable, MediaError: as for a picture.
    """
    # A second more than is needed tells whether it is longer; what comes behind is not even decoded.
    most = samples / SAMPLE_RATE + 1
    content = _content(place, "audio", "audio/*")
    found = sound.decode(content, max_seconds=most, max_bytes=kinds.MAX_BYTES["audio"], cut=True)
    return found.shape[1] / SAMPLE_RATE, fitted(found, samples)


def _content(place: Place, kind: kinds.Kind, accept: str) -> bytes:
    if place.url is None:
        return open_store(Settings(), base_url="").read(place.key or "")
    fetched = asyncio.run(
        egress.fetch(
            place.url,
            max_bytes=kinds.MAX_BYTES[kind],
            timeout_s=_FETCH_SECONDS,
            allow=parse_allowed(Settings().egress_allow),
            accept=accept,
        )
    )
    return fetched.data


def encode_picture(
    result: Any, image_format: image.Format, size: tuple[int, int], recipe: Recipe
) -> tuple[bytes, preview.Preview]:
    """An engine's picture as a file of the promised `size` (width, height), and its preview.

    The file tells its recipe, unless the setting `provenance` is off.
    """
    xmp = recipe.as_xmp() if Settings().provenance else None
    return image.encode(result.pixels, image_format, size=size, xmp=xmp), preview.preview(result.pixels, size)


def film(stored: StoredClip, wanted: Film) -> list[dict[str, Any]]:
    """The stored clip as the file that was promised; its outputs, the file first.

    Raises:
        MissingObject: the clip is not there.
        StoreUnavailable: the store fails.
    """
    store = open_store(Settings(), base_url="")
    with clips.opened(stored, store) as clip:
        return clips.publish(wanted, clip, store)


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
