"""The demo: real jobs through the public API of a stack that is started for them, and a summary for programs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.progress import Progress

from core.errors import OperatorError
from killatamata import show
from killatamata.client import Client
from killatamata.stack import Ready


def _photograph(name: str) -> dict[str, str]:
    content = (files("killatamata") / "photographs" / name).read_bytes()
    return {"dataBase64": base64.b64encode(content).decode(), "mimeType": "image/jpeg"}


EXAMPLES: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "image": (
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
    ),
}
"""What each family of tasks shows."""

_ENDINGS = {"jpeg": "jpg", "mpeg": "mp3", "gltf-binary": "glb"}


class UnknownFamily(OperatorError):
    """The demo has no such family of tasks."""


class DemoFailed(OperatorError):
    """A job of the demo did not succeed."""


def families(names: str) -> tuple[str, ...]:
    """The families in a comma-separated list; `all` is every one.

    Raises:
        UnknownFamily: one of them does not exist.
    """
    asked = tuple(EXAMPLES) if names == "all" else tuple(name.strip() for name in names.split(","))
    for name in asked:
        if name not in EXAMPLES:
            raise UnknownFamily(f"no demo for {name!r}; there is one for: {', '.join(EXAMPLES)}")
    return asked


async def run(ready: Ready, asked: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Run the examples side by side; writes the outputs and `summary.json` into `out` and returns the summary.

    Raises:
        DemoFailed: a job failed; the summary is written all the same.
    """
    examples = [example for name in asked for example in EXAMPLES[name]]
    async with Client(ready.base_url, ready.api_key) as client:
        with show.progress() as bars:
            jobs = await asyncio.gather(*(_one(client, bars, task, given, out) for task, given in examples))
    summary = {"jobs": jobs}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    failed = [job["jobId"] for job in jobs if job["status"] != "succeeded"]
    if failed:
        raise DemoFailed(f"these jobs did not succeed: {', '.join(failed)}; {out / 'summary.json'} says more")
    return summary


async def _one(client: Client, bars: Progress, task: str, given: dict[str, Any], out: Path) -> dict[str, Any]:
    quote = await client.quote(task, given)
    accepted = await client.submit(task, given, quoteToken=quote["quoteToken"])
    price = accepted["billing"]["amountUsd"]
    job = await client.finished(accepted["jobId"], show.follow(bars, f"{task} [dim]${price}[/dim]"))
    return summarised(job, await downloaded(client, job, out))


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
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path, output in zip(paths, job["outputs"], strict=True)
        ],
    }


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
