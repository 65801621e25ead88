"""Extending a clip: real clips, and a double of the API that answers as it does, with a fresh signature each time."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pytest

from killatamata.client import Client
from killatamata.extension import Extension, NotExtensible, extended, slice_of
from tests.media.numbered_clips import made


class ClientDouble:
    """Uploads have the name of their key; every job succeeds, and its film's URL is signed anew whenever it is asked for."""

    def __init__(self) -> None:
        self.uploaded: dict[str, bytes] = {}
        self.submitted: dict[str, tuple[str, dict[str, Any]]] = {}
        self._signatures = itertools.count()

    async def upload(self, path: Path, mime_type: str, *, idempotency_key: str) -> str:
        content = path.read_bytes()
        assert self.uploaded.setdefault(idempotency_key, content) == content, "409 idempotency_conflict"
        return f"https://api.example/uploads/{idempotency_key}"

    async def submit(self, task: str, given: dict[str, Any], *, idempotency_key: str) -> dict[str, Any]:
        assert self.submitted.setdefault(idempotency_key, (task, given)) == (task, given), "409 idempotency_conflict"
        return {"jobId": idempotency_key, "task": task}

    async def watched(self, accepted: dict[str, Any]) -> dict[str, Any]:
        url = f"https://api.example/objects/jobs/1/video.mp4?expires=1&signature={next(self._signatures)}"
        return {**accepted, "status": "succeeded", "downloadableOutputUrls": [url]}


def wish(**changes: Any) -> Extension:
    words: dict[str, Any] = {"seconds": 1.0, "overlap": 9, "sampled_fps": None, "reference_audio": None}
    return Extension(**{**words, "given": {"prompt": "on it goes"}, **changes})


async def extend(api: ClientDouble, clip: Path, what: Extension) -> dict[str, Any]:
    return await extended(cast(Client, api), clip, None, what, "key", api.watched)


async def test_the_same_words_again_ask_for_the_same_jobs(tmp_path: Path) -> None:
    api, clip = ClientDouble(), made(tmp_path / "a.mp4", 30)
    first = await extend(api, clip, wish())
    assert [task for task, _ in api.submitted.values()] == ["video.generate", "video.combine"]
    _, joined = api.submitted["key-combine"]
    assert joined == {
        "videoUrls": ["https://api.example/uploads/key-clip", "https://api.example/objects/jobs/1/video.mp4"],
        "overlapFrames": 9,
        "overlapFps": 25,
    }
    assert (await extend(api, clip, wish()))["jobId"] == first["jobId"]
    assert len(api.submitted) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"overlap": 33}, "shorter than 33 frames"),
        ({"seconds": float("inf")}, "--seconds"),
        ({"seconds": 60.0}, "too long; at most 23"),
        ({"sampled_fps": 0}, "--sampled-fps is from 8 to 30"),
        ({"sampled_fps": 60}, "--sampled-fps is from 8 to 30"),
        ({"given": {"prompt": "p", "sampledFps": 24}}, "say it with --sampled-fps"),
        ({"given": {"prompt": "p", "durationFrames": 9}}, "say it with --seconds"),
        ({"given": {}}, "--input prompt="),
        ({"reference_audio": Path("/nowhere/a.wav")}, "a.wav"),
    ],
)
async def test_what_cannot_be_is_said_before_anything_is_paid(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    api = ClientDouble()
    with pytest.raises(NotExtensible, match=says):
        await extend(api, made(tmp_path / "a.mp4", 30), wish(**changes))
    assert api.submitted == {}


@pytest.mark.parametrize("content", [None, b"", b"no clip", b"\0\0\0\x18ftypisom"])
async def test_what_is_no_clip_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NotExtensible, match=r"a\.mp4"):
        await extend(ClientDouble(), path, wish())


def test_sound_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")
    with pytest.raises(NotExtensible, match=r"a\.wav"):
        slice_of(path, Fraction(0), Fraction(1))
