"""The demo: real jobs through the public API of a stack that is started for them, and a summary for programs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.progress import Progress

from core.errors import OperatorError
from killatamata import show
from killatamata.client import Client
from killatamata.extension import Extension, extended
from killatamata.stack import Ready


def _photograph(name: str) -> dict[str, str]:
    content = (files("killatamata") / "photographs" / name).read_bytes()
    return {"dataBase64": base64.b64encode(content).decode(), "mimeType": "image/jpeg"}


IMAGES: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "image.generate",
        {"prompt": "cinematic fox astronaut", "width": 512, "height": 512, "seed": 424242},
    ),
    (
        "image.edit",
        {
            "prompt": "turn this scene into a dramatic noir poster",
            "sourceImage": _photograph("coffee.jpg"),
            "seed": 424242,
        },
    ),
)
_CLIP = {"durationFrames": 49, "sampledFps": 25, "width": 640, "height": 384, "seed": 424242}
CLIPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("video.generate", {"prompt": "slow cinematic push-in with floating particles", **_CLIP}),
    (
        "video.generate",
        {
            "prompt": "the camera circles the cup",
            "startFrameImage": _photograph("coffee.jpg"),
            "finalFrameImage": _photograph("coffee.jpg"),
            **_CLIP,
        },
    ),
)
_ADDED_SECONDS = 1.0
_OVERLAP_FRAMES = 9

_MEASURES = ("width", "height", "frames", "fps", "durationSeconds", "sampleRate")
_ENDINGS = {"jpeg": "jpg", "mpeg": "mp3", "gltf-binary": "glb"}


class UnknownFamily(OperatorError):
    """The demo has no such family of tasks."""


class DemoFailed(OperatorError):
    """A job of the demo did not succeed."""


class Demo:
    """Jobs side by side through one client, each with a bar; what became of them is summarised in `jobs`."""

    def __init__(self, client: Client, bars: Progress, out: Path) -> None:
        self.jobs: list[dict[str, Any]] = []
        self._client = client
        self._bars = bars
        self._out = out

    async def images(self) -> None:
        """A picture from words, and one made of a photograph."""
        await _all(*(self._one(task, given) for task, given in IMAGES))

    async def video(self) -> None:
        """A clip from words and one between two frames; the first is extended, and all become one film."""
        first, second = await _all(*(self._one(task, given) for task, given in CLIPS))
        wish = Extension(
            seconds=_ADDED_SECONDS, overlap=_OVERLAP_FRAMES, sampled_fps=None, reference_audio=None, given={}
        )
        longer = await extended(self._client, _file(first), first[0], wish, secrets.token_hex(16), self._watched)
        urls = [url for job in (longer, second[0]) for url in job["downloadableOutputUrls"]]
        await self._one("video.combine", {"videoUrls": urls})

    async def _one(self, task: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[Path]]:
        quote = await self._client.quote(task, given)
        return await self._followed(await self._client.submit(task, given, quoteToken=quote["quoteToken"]))

    async def _watched(self, accepted: dict[str, Any]) -> dict[str, Any]:
        return (await self._followed(accepted))[0]

    async def _followed(self, accepted: dict[str, Any]) -> tuple[dict[str, Any], list[Path]]:
        label = f"{accepted['task']} [dim]${accepted['billing']['amountUsd']}[/dim]"
        job = await self._client.finished(accepted["jobId"], show.follow(self._bars, label))
        paths = await downloaded(self._client, job, self._out)
        self.jobs.append(summarised(job, paths))
        if job["status"] != "succeeded":
            raise DemoFailed(f"{job['jobId']} did not succeed: {(job.get('failure') or {}).get('message')}")
        return job, paths


FAMILIES: Mapping[str, Callable[[Demo], Awaitable[None]]] = {"image": Demo.images, "video": Demo.video}
"""What each family of tasks shows."""


def families(names: str) -> tuple[str, ...]:
    """The families in a comma-separated list; `all` is every one.

    Raises:
        UnknownFamily: one of them does not exist.
    """
    asked = tuple(FAMILIES) if names == "all" else tuple(name.strip() for name in names.split(","))
    for name in asked:
        if name not in FAMILIES:
            raise UnknownFamily(f"no demo for {name!r}; there is one for: {', '.join(FAMILIES)}")
    return asked


async def run(ready: Ready, asked: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Run the families side by side; writes the outputs and `summary.json` into `out` and returns the summary.

    Raises:
        DemoFailed: a job failed; the summary is written all the same.
    """
    async with Client(ready.base_url, ready.api_key) as client:
        with show.progress() as bars:
            demo = Demo(client, bars, out)
            try:
                await _all(*(FAMILIES[name](demo) for name in asked))
            finally:
                summary = {"jobs": sorted(demo.jobs, key=lambda job: str(job["jobId"]))}
                (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


async def _all(*works: Awaitable[Any]) -> list[Any]:
    """What all of them give; the first error only after the last one's end."""
    ends = await asyncio.gather(*works, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return ends


def _file(made: tuple[dict[str, Any], list[Path]]) -> Path:
    """The video of a finished job."""
    job, paths = made
    return next(path for output, path in zip(job["outputs"], paths, strict=True) if output["mimeType"] == "video/mp4")


async def downloaded(client: Client, job: Mapping[str, Any], out: Path) -> list[Path]:
    """Every output of a finished job, checked, as `<out>/<task>-<end of the job's id>[-<role>].<ending>`."""
    paths = []
    for output in job["outputs"]:
        kind = output["mimeType"].rpartition("/")[2]
        role = "" if output["role"] == "primary" else f"-{output['role']}"
        name = f"{job['task']}-{job['jobId'][-8:]}{role}.{_ENDINGS.get(kind, kind)}"
        paths.append(await client.download(output, out / re.sub(r"[^A-Za-z0-9._-]", "_", name)))
    return paths


def summarised(job: Mapping[str, Any], paths: list[Path]) -> dict[str, Any]:
    """The job as `summary.json` has it."""
    seconds = (_instant(job["finishedAt"]) - _instant(job["createdAt"])).total_seconds()
    return {
        "task": job["task"],
        "jobId": job["jobId"],
        "status": job["status"],
        "amountMicros": job["billing"]["amountMicros"],
        "attempts": len(job["details"]["attempts"]),
        "engine": job["engine"],
        "weightsDigest": job["weightsDigest"],
        "standIn": job["standIn"],
        "seconds": round(seconds, 3),
        "files": [
            {
                "path": str(path),
                "mimeType": output["mimeType"],
                **{name: output[name] for name in _MEASURES if output.get(name) is not None},
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path, output in zip(paths, job["outputs"], strict=True)
        ],
    }


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
