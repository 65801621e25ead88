"""video.generate: fetch pictures and sound, run the video model, keep its clip; then interpolate or only encode, deliver.

Between the two segments the clip lies in the store as the job's checkpoint: whatever dies later begins behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from cluster import work
from cluster.chains.pictures import listed
from cluster.seeds import seed_of
from cluster.steps import Fetched, Steps
from core.settings import Settings
from deployments.clips import Film, Mezzanine, StoredClip
from jobs.leases import Outcome
from media.clip import sound_samples
from media.provenance import Recipe
from models.ltx_video import VideoRequest
from models.rife import InterpolationRequest
from tasks import video_generate
from tasks.registry import TASKS

_GENERATED = 0.75
"""Share of a job's progress that the video model makes up, where RIFE follows."""


async def generate(steps: Steps) -> dict[str, Any]:
    """The first segment: what the video model makes, as the checkpoint."""
    given = steps.input
    frames = video_generate.frames(given)
    seed, adjustments = await seed_of(steps)
    pictures, sound, changes = await _fetched(steps, frames)
    adjustments += changes
    overlap = given["overlapFrameImages"] or ()
    request = VideoRequest(
        prompt=given["prompt"],
        negative_prompt=given["negativePrompt"],
        width=given["width"],
        height=given["height"],
        frames=frames,
        fps=given["sampledFps"],
        steps=video_generate.STEPS,
        seed=seed,
        extreme_quality=given["extremeQuality"],
        start=pictures.get("startFrameImage"),
        final=pictures.get("finalFrameImage"),
        overlap=tuple(pictures[f"overlapFrameImages[{index}]"] for index in range(len(overlap))),
        sound=sound,
    )
    made = await steps.model("ltx-video", request, sink=Mezzanine(steps.folder), share=(0.0, _GENERATED))
    upstream = dict(made.details)
    return {
        "clip": asdict(await made.result),
        "adjustments": [*adjustments, *upstream.pop("adjustments", ())],
        "upstream": upstream,
        "engine": made.engine,
        "weightsDigest": made.weights_digest,
        "standIn": made.stand_in,
        "replica": made.replica,
    }


async def deliver(steps: Steps) -> Outcome:
    """The second segment: the clip at its final rate and size, encoded where its frames are made."""
    given, made = steps.input, _checkpoint(steps)
    stored, film = StoredClip(**made["clip"]), _film(steps, made)
    fps = given["interpolationFps"]
    if not fps:
        outputs = await steps.cpu("encode", work.film, stored, film)
        return _outcome(made, outputs)
    request = InterpolationRequest(source=stored, fps=Fraction(fps), frames=film.frames)
    finished = await steps.model("rife", request, sink=film, share=(_GENERATED, 0.98))
    details = {name: value for name, value in finished.details.items() if name != "adjustments"}
    made["upstream"]["interpolation"] = {"engine": finished.engine, **details}
    return _outcome(made, await finished.result, replica=finished.replica)


async def _fetched(steps: Steps, frames: int) -> tuple[dict[str, Any], Any, list[dict[str, Any]]]:
    """Pixels by the place of their picture in the input, the sound, and what both had to become."""
    given = steps.input
    places = {name: given[name] for name in ("startFrameImage", "finalFrameImage") if given[name] is not None}
    places |= listed("overlapFrameImages", given["overlapFrameImages"] or ())
    spoken = given["referenceAudio"]
    if not places and spoken is None:
        return {}, None, []
    canvas = (given["width"], given["height"])
    changes: list[dict[str, Any]] = []
    pictures: dict[str, Any] = {}
    sound = None
    async with steps.stage("fetch"):
        for found in await steps.pictures(places, canvas):
            pictures[found.path] = found.pixels
            changes += [*found.adjustments(), *_covered(found, canvas)]
        if spoken is not None:
            fps = Fraction(given["sampledFps"])
            seconds, sound = await steps.sound("referenceAudio", spoken, sound_samples(frames, fps))
            changes += _heard(seconds, float(frames / fps))
    return pictures, sound, changes


def _covered(found: Fetched, canvas: tuple[int, int]) -> list[dict[str, Any]]:
    if found.size == canvas:
        return []
    (width, height), (across, down) = found.size, canvas
    reason = "scaled to the canvas"
    if width * down != height * across:
        reason = "scaled to fill the canvas; what stands out was cut evenly at both ends"
    return [{"field": found.path, "from": f"{width}x{height}", "to": f"{across}x{down}", "reason": reason, "at": "run"}]


def _heard(seconds: float, wanted: float) -> list[dict[str, Any]]:
    """What became of a sound that is not as long as the clip; a frame of a codec more or less is not worth a word."""
    if abs(seconds - wanted) < 0.05:
        return []
    longer = seconds > wanted
    reason = "longer than the clip: cut at its end" if longer else "shorter than the clip: silence follows"
    return [
        {
            "field": "referenceAudio",
            "from": "a longer sound" if longer else f"{seconds:.3f} s",
            "to": f"{wanted:.3f} s",
            "reason": reason,
            "at": "run",
        }
    ]


def _checkpoint(steps: Steps) -> dict[str, Any]:
    checkpoint = steps.lease.checkpoint
    assert checkpoint is not None
    return checkpoint


def _film(steps: Steps, made: Mapping[str, Any]) -> Film:
    given = steps.input
    recipe = Recipe(
        task=steps.lease.task,
        engine=made["engine"],
        weights_digest=made["weightsDigest"],
        stand_in=made["standIn"],
        seed=made["upstream"].get("seed", given["seed"]),
        input_sha256=TASKS[steps.lease.task].hash_input(given, seed_drawn=False),
        edited=any(given[name] for name in ("startFrameImage", "finalFrameImage", "overlapFrameImages")),
    )
    return Film(
        steps.folder,
        given["width"],
        given["height"],
        video_generate.delivered_frames(given),
        recipe.as_xmp() if Settings().provenance else None,
    )


def _outcome(made: Mapping[str, Any], outputs: list[dict[str, Any]], replica: str | None = None) -> Outcome:
    return Outcome(
        outputs=tuple(outputs),
        adjustments=tuple(made["adjustments"]),
        upstream=made["upstream"],
        engine=made["engine"],
        weights_digest=made["weightsDigest"],
        stand_in=made["standIn"],
        replica=replica,
    )
