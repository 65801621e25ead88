"""The caller's command `extend`: a clip goes on, and both parts become one film."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from core.settings import Settings
from killatamata import inputs, show
from killatamata.cli_jobs import AsJson, Words, api_of, ended, watched
from killatamata.client import Client
from killatamata.command import CommandFailed, interruptible
from killatamata.extension import Extension, extended
from tasks.video_generate import MAX_OVERLAP_FRAMES

_PREFIX = "job_"


def extend(
    clip: str,
    *,
    seconds: float,
    input: Words = (),  # noqa: A002
    overlap: int = 9,
    sampled_fps: int | None = None,
    reference_audio: Path | None = None,
    idempotency_key: str | None = None,
    out: Annotated[Path, Parameter(show_default=True)] = Path("out"),
    as_json: AsJson = False,
) -> int:
    """Let a clip go on: its last frames begin a new one, and video.combine joins both. Two jobs are paid for.

    Parameters
    ----------
    clip:
        An MP4 file, or the id (job_…) of the account's job that made one: then its prompt and seed are taken over.
    seconds:
        How much is added, at least.
    input:
        A field of the new clip's input as name=value, for example prompt='she turns around'.
    overlap:
        Sampled frames that both clips share, 1 to 33; they count in the price. Best are 8n + 1.
    sampled_fps:
        Frames a second that the model makes; absent: those of the job, of the clip, or half of it.
    reference_audio:
        Sound whose time begins with the clip's; the part that the new clip needs is cut out of it.
    idempotency_key:
        The same key with the same words goes on where a broken call ended: nothing is made or paid twice.
    out:
        Where the film goes.
    as_json:
        Print the finished job of the film as JSON.
    """
    if not 1 <= overlap <= MAX_OVERLAP_FRAMES:
        raise CommandFailed(f"--overlap is from 1 to {MAX_OVERLAP_FRAMES}, not {overlap}")
    if not seconds > 0:
        raise CommandFailed("--seconds is more than 0")
    given = inputs.read("video.generate", input, ())
    wish = Extension(
        seconds=seconds,
        overlap=overlap,
        sampled_fps=sampled_fps,
        reference_audio=reference_audio,
        given=given.assembled({}),
    )
    key = idempotency_key or secrets.token_hex(16)

    async def go_on(settings: Settings) -> int:
        async with api_of(settings, as_json) as api:

            async def watch(accepted: dict[str, Any]) -> dict[str, Any]:
                return await watched(api, accepted["jobId"], f"{accepted['task']} ${accepted['billing']['amountUsd']}")

            try:
                with tempfile.TemporaryDirectory(prefix="killatamata-extend-") as folder:
                    path, made = await _clip(api, clip, Path(folder))
                    job = await extended(api, path, made, wish, key, watch)
            except BaseException:
                show.console.print(f"Go on where this ended with --idempotency-key {key} and the same words.")
                raise
            return await ended(api, job, out, as_json)

    return interruptible(go_on)


async def _clip(api: Client, clip: str, folder: Path) -> tuple[Path, dict[str, Any] | None]:
    """The clip as a file, and the job that made it, if there is one."""
    if not clip.startswith(_PREFIX) or Path(clip).exists():
        return Path(clip), None
    job = await api.job(clip, details=True)
    video = next((each for each in job["outputs"] if each["mimeType"] == "video/mp4"), None)
    if video is None:
        raise CommandFailed(f"{clip} has no video: it is a {job['task']}, {job['status']}")
    return await api.download(video, folder / "clip.mp4"), job if job["task"] == "video.generate" else None
