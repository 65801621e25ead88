"""`video.combine`: clips joined in playback order, each with its own sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from tasks.base import Findings, Task
from tasks.examples import EXAMPLES
from tasks.fields import PLAIN, WHOLE, TaskInput
from tasks.media_fields import MediaUrl

MIN_CLIPS, MAX_CLIPS = 2, 50
MAX_OVERLAP_FRAMES = 3600
"""A minute at 60 frames a second."""

FrameRate = Annotated[float, Field(ge=1, le=60), PLAIN]
"""Frames a second; 23.976, 29.97 and 59.94 mean the exact rates of NTSC."""


class VideoCombineInput(TaskInput):
    """What `video.combine` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES["video.combine"]})

    video_urls: Annotated[list[MediaUrl], Field(min_length=MIN_CLIPS, max_length=MAX_CLIPS)] = Field(
        description="The clips in playback order; each keeps its own sound, and one without sound is silent. The same "
        "URL may come more than once, and each time counts in the price. Together they last an hour at most, "
        "and must arrive within 15 minutes. A URL with a user name or password is refused."
    )
    overlap_frames: Annotated[int, Field(ge=0, le=MAX_OVERLAP_FRAMES), WHOLE] = Field(
        0,
        description="Cut overlapFrames ÷ overlapFps seconds of picture and sound from the head of every clip after the "
        "first. An overlap not shorter than a later clip fails the job with overlap_too_long, at no cost.",
        examples=[3],
    )
    frame_rate: FrameRate | None = Field(
        None,
        description="Frames a second of the result; that of the first clip when absent. 23.976, 29.97 and 59.94 mean "
        "24000/1001, 30000/1001 and 60000/1001.",
        examples=[60],
    )
    overlap_fps: FrameRate | None = Field(
        None,
        description="The rate at which overlapFrames counts; frameRate when absent. After video.generate it is that "
        "clip's sampledFps.",
        examples=[25],
    )


class VideoCombine(Task[VideoCombineInput]):
    """The task `video.combine`."""

    name = "video.combine"
    title = "Combine videos"
    model = "codec work alone"
    output = "video"
    Input = VideoCombineInput

    def complete(self, given: VideoCombineInput, findings: Findings) -> dict[str, Any]:
        """The overlap counts at the output's rate unless another is given; an absent rate is known at run time."""
        effective = given.model_dump(exclude={"seed"})
        if given.overlap_fps is None:
            effective["overlapFps"] = effective["frameRate"]
        return effective

    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """No model: CPU alone."""
        return ("cpu",)

    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """A full re-encode of 20 clips of 6 s at 1280×704 took 26.5 s on 2 cores; half a second more a clip to fetch."""
        return 2.0 + 1.9 * len(effective_input["videoUrls"])
