"""video.combine: fetch the clips, join them, deliver. Codec work alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from cluster.combining import STAGES, Wish, combined
from cluster.faults import at
from cluster.steps import Steps
from jobs.leases import Outcome
from media.arithmetic import frame_rate
from media.combine import Combined


async def combine(steps: Steps) -> Outcome:
    """The only segment."""
    given = steps.input
    places = []
    for index, url in enumerate(given["videoUrls"]):
        with at(f"videoUrls[{index}]"):
            places.append(await steps.place(url, "video"))
    wish = Wish(given["overlapFrames"], _rate(given["overlapFps"]), _rate(given["frameRate"]))
    _, done, outputs = await steps.course(combined, STAGES, places, wish, steps.folder)
    return Outcome(
        outputs=tuple(outputs),
        adjustments=tuple(_adjustments(done)),
        upstream={
            "method": done.method,
            "reason": done.reason,
            "frames": done.frames,
            "copiedFrames": done.copied_frames,
            "encodedFrames": done.encoded_frames,
        },
        stand_in=False,
    )


_DONE: Mapping[str, str] = {
    "letterboxed": "another aspect ratio than the first clip: bars fill the rest",
    "scaled": "another size than the first clip",
    "turned": "recorded turned: the pixels were turned upright",
    "resampled": "another frame rate, or none that is constant: each frame is the one nearest to its moment",
    "silent": "no sound of its own: silence stands there",
    "tone_mapped": "HDR, brought to the standard range",
    "reduced": "more than 8 bits a channel, reduced to 8",
    "flattened": "transparent, laid over black",
}


def _adjustments(done: Combined) -> Iterator[dict[str, Any]]:
    to = f"{done.width}x{done.height} at {float(done.fps):g} a second"
    for name, indexes in done.adjustments.items():
        for index in indexes:
            yield {"field": f"videoUrls[{index}]", "from": "as it came", "to": to, "reason": _DONE[name], "at": "run"}


def _rate(value: float | None) -> Fraction | None:
    return None if value is None else frame_rate(value)
