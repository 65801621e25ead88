"""`video.generate`: a clip from words, from pictures and from sound."""

from __future__ import annotations

from collections.abc import Mapping, Set
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

from media import arithmetic
from tasks.base import Findings, Task
from tasks.canvas import Side, canvas
from tasks.examples import EXAMPLES
from tasks.fields import PLAIN, WHOLE, NegativePrompt, Prompt, TaskInput
from tasks.media_fields import AudioReference, ImageReference, MediaUrl, canonical, is_jpeg
from tasks.validation import ALLOWED

MIN_FRAMES, MAX_FRAMES = 9, 601
MAX_OVERLAP_FRAMES = 33
DEFAULT_SECONDS = 6
MIN_INTERPOLATION_FPS, MAX_INTERPOLATION_FPS = 30, 60
STEPS = 30
"""Denoising steps of the undistilled model; a distilled one takes its own few."""
JPEG_OVERLAP_FRAMES = "jpeg_overlap_frames"
"""The warning: JPEG's blocks come back in every continuation of a clip."""

CANVASES: Mapping[str, tuple[int, int]] = {
    "16:9": (1280, 704),
    "9:16": (704, 1280),
    "1:1": (960, 960),
    "4:3": (1152, 864),
    "3:4": (864, 1152),
    "21:9": (1504, 640),
}
"""Width and height in pixels by aspect ratio."""


def _clip_length(frames: int) -> int:
    if arithmetic.is_clip_length(frames):
        return frames
    below, above = arithmetic.clip_lengths_around(frames)
    near = below if frames - below <= above - frames else above
    raise PydanticCustomError("clip_length", f"must be 8n + 1: use {below} or {above}, not {frames}", {"nearest": near})


def _off_or_on(fps: int) -> int:
    if 0 < fps < MIN_INTERPOLATION_FPS:
        near = 0 if fps < MIN_INTERPOLATION_FPS / 2 else MIN_INTERPOLATION_FPS
        raise PydanticCustomError("fps", f"must be 0 (off) or 30 to 60, not {fps}", {"nearest": near})
    return fps


CLIP_LENGTHS: dict[str, JsonValue] = {"type": "integer", "minimum": MIN_FRAMES, "maximum": MAX_FRAMES, "rule": "8n + 1"}
OFF_OR_ON: dict[str, JsonValue] = {
    "type": "integer",
    "anyOf": [{"const": 0}, {"minimum": MIN_INTERPOLATION_FPS, "maximum": MAX_INTERPOLATION_FPS}],
}
DurationFrames = Annotated[
    int,
    Field(ge=MIN_FRAMES, le=MAX_FRAMES, json_schema_extra={ALLOWED: CLIP_LENGTHS}),
    AfterValidator(_clip_length),
    WHOLE,
]
InterpolationFps = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_INTERPOLATION_FPS,
        json_schema_extra={
            "not": {"exclusiveMinimum": 0, "exclusiveMaximum": MIN_INTERPOLATION_FPS},
            ALLOWED: OFF_OR_ON,
        },
    ),
    AfterValidator(_off_or_on),
    WHOLE,
]
OverlapCount = Field(min_length=1, max_length=MAX_OVERLAP_FRAMES)


class VideoGenerateInput(TaskInput):
    """What `video.generate` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES["video.generate"]})

    prompt: Prompt = Field(
        description="What the clip shows; never rewritten. Image-to-video is probabilistic: plan for several seeds, "
        "every finished run is charged.",
        examples=["slow cinematic push-in with floating particles"],
    )
    negative_prompt: NegativePrompt = Field(
        "", description="What the clip must not show.", examples=["text, watermark"]
    )
    start_frame_image: ImageReference | None = Field(
        None,
        description="Frame zero, cover-cropped to the canvas. Beside overlap frames it takes the place of the first of "
        "them, which inputAdjustments says. Without any picture this is text-to-video, at the same price.",
    )
    start_frame_image_url: MediaUrl | None = Field(None, description="The URL-only name of startFrameImage.")
    source_image: ImageReference | None = Field(None, description="Another name of startFrameImage; not beside it.")
    source_image_url: MediaUrl | None = Field(None, description="Another name of startFrameImageUrl; not beside it.")
    final_frame_image: ImageReference | None = Field(
        None, description="The last frame, cover-cropped to the canvas; free."
    )
    final_frame_image_url: MediaUrl | None = Field(None, description="The URL-only name of finalFrameImage.")
    overlap_frame_images: Annotated[list[ImageReference], OverlapCount] | None = Field(
        None,
        description="The last frames of the clip before, in the order of time, at sampledFps; fewer than this clip's "
        "frames. Frame i of the clip is overlap frame i; they count in durationFrames and in the price. Send lossless "
        f"webp: JPEG is accepted with the warning {JPEG_OVERLAP_FRAMES}.",
    )
    overlap_frame_image_urls: Annotated[list[MediaUrl], OverlapCount] | None = Field(
        None, description="The URL-only name of overlapFrameImages; not beside it."
    )
    reference_audio: AudioReference | None = Field(
        None,
        description="Sound that the clip lip-syncs to and carries; needs a start frame or overlap frames. Shorter than "
        "the clip: silence follows; longer: it is cut. The price is a quarter higher.",
    )
    reference_audio_url: MediaUrl | None = Field(None, description="The URL-only name of referenceAudio.")
    duration_frames: DurationFrames | None = Field(
        None,
        description="Frames at sampledFps, 8n + 1 of them (249 and 257, not 250), all delivered. Preferred; not beside "
        "durationSeconds.",
        examples=[257],
    )
    duration_seconds: Annotated[float, Field(ge=1, le=20), PLAIN] | None = Field(
        None,
        description="Seconds, fractions allowed; 6 when neither duration is given. Frames go up to 8n + 1, are priced, "
        "and are trimmed back to exactly this time; inputAdjustments says so when the caller gave the seconds, and "
        "strict=1 then refuses all but the default's 6. The last frame is held where interpolation leaves a few too few. "
        "effectiveInput keeps the one of the two durations that counts.",
        examples=[6],
    )
    sampled_fps: Annotated[int, Field(ge=8, le=30), WHOLE] = Field(
        30, description="Frames a second that the model makes.", examples=[25]
    )
    interpolation_fps: InterpolationFps = Field(
        60,
        description="0 for none, or the frames a second of the file, 30 to 60; free. Never changes the duration: n frames "
        "become round((n − 1) × interpolationFps ÷ sampledFps) + 1, halves up.",
        examples=[60],
    )
    width: Side | None = Field(
        None,
        description="Pixels of the final canvas; only together with height. Rounded down to a multiple of 32, which is "
        "then reported in inputAdjustments. Width × height is at most 4194304.",
        examples=[1920],
    )
    height: Side | None = Field(
        None, description="Pixels; only together with width, under the same rules.", examples=[1088]
    )
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "21:9"] = Field(
        "16:9",
        description="Chooses the canvas when width and height are absent; not beside them: "
        + ", ".join(f"{ratio} is {width}×{height}" for ratio, (width, height) in CANVASES.items())
        + ". effectiveInput has the width and height instead.",
    )
    extreme_quality: bool = Field(
        False,
        description="The two-stage path, at half the price again. Only when the caller explicitly wants it.",
        json_schema_extra={"x-agent-hint": "opt-in"},
    )


class VideoGenerate(Task[VideoGenerateInput]):
    """The task `video.generate`."""

    name = "video.generate"
    title = "Generate a video"
    model = "LTX-2.3, then RIFE"
    output = "video"
    Input = VideoGenerateInput

    def complete(self, given: VideoGenerateInput, findings: Findings) -> dict[str, Any]:
        """One name for each picture and sound, one duration, and the canvas in pixels."""
        names = given.given()
        effective = given.model_dump(exclude={"seed", "aspect_ratio"})
        effective["width"], effective["height"] = _canvas(given, names, findings)
        timed = _duration(effective, names, findings)
        starts = ("startFrameImage", "startFrameImageUrl", "sourceImage", "sourceImageUrl")
        start = canonical(effective, names, findings, *starts)
        canonical(effective, names, findings, "finalFrameImage", "finalFrameImageUrl")
        overlap = canonical(effective, names, findings, "overlapFrameImages", "overlapFrameImageUrls")
        audio = canonical(effective, names, findings, "referenceAudio", "referenceAudioUrl")
        if audio is not None and start is None and overlap is None:
            findings.refuse(audio, "needs a picture to speak: give startFrameImageUrl or overlapFrameImageUrls too")
        if overlap is not None and timed:
            _overlap(effective, start, overlap, findings)
        return effective

    def warnings(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """Overlap frames in JPEG."""
        return (JPEG_OVERLAP_FRAMES,) if any(map(is_jpeg, effective_input["overlapFrameImages"] or ())) else ()

    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """The video engine, then the interpolation, which also encodes; when it is off, a CPU encodes."""
        return ("ltx-video", "rife" if effective_input["interpolationFps"] else "cpu")

    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """By megapixel-frames: LTX-2, 768×512×121 in 8 steps, takes 9.5 s on one H100 (sglang issue 23137).

        Taken, not measured: the two-stage path at twice that, RIFE at 100 megapixels a second, 3 s for the rest.
        """
        megapixels = effective_input["width"] * effective_input["height"] / 1e6
        sampled = float(frames(effective_input) * megapixels) * 9.5 / 47.6
        out = delivered_frames(effective_input) * megapixels if effective_input["interpolationFps"] else 0.0
        return 3.0 + sampled * (2 if effective_input["extremeQuality"] else 1) + out / 100

    def output_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """The file's frames at the file's rate."""
        return delivered_frames(effective_input) / output_fps(effective_input)


def frames(effective_input: Mapping[str, Any]) -> int:
    """Frames that the model makes, overlap included: 8n + 1. They are what is priced."""
    given = effective_input["durationFrames"]
    if given is not None:
        return int(given)
    return arithmetic.frames_for(effective_input["durationSeconds"], effective_input["sampledFps"])


def output_fps(effective_input: Mapping[str, Any]) -> int:
    """Frames a second of the file."""
    return int(effective_input["interpolationFps"] or effective_input["sampledFps"])


def delivered_frames(effective_input: Mapping[str, Any]) -> int:
    """Frames in the file, after interpolation and after trimming to the seconds asked for."""
    return arithmetic.delivered_frames(
        frames(effective_input),
        effective_input["sampledFps"],
        effective_input["interpolationFps"],
        effective_input["durationSeconds"],
    )


def _canvas(given: VideoGenerateInput, names: Set[str], findings: Findings) -> tuple[int, int]:
    sides = [f"`{name}`" for name in ("width", "height") if name in names]
    if not sides:
        return CANVASES[given.aspect_ratio]
    if "aspectRatio" in names:
        findings.refuse("aspectRatio", f"cannot stand beside {' and '.join(sides)}: give the canvas in one way")
    return canvas(given.width or 0, given.height or 0, names, findings)


def _duration(effective: dict[str, Any], names: Set[str], findings: Findings) -> bool:
    """Whether there is one duration."""
    if names >= {"durationFrames", "durationSeconds"}:
        for name, other in (("durationFrames", "durationSeconds"), ("durationSeconds", "durationFrames")):
            findings.refuse(name, f"cannot stand beside `{other}`: give one of them")
        return False
    if "durationFrames" in names:
        return True
    if "durationSeconds" not in names:
        effective["durationSeconds"] = DEFAULT_SECONDS
        return True
    seconds, fps = effective["durationSeconds"], effective["sampledFps"]
    made = frames(effective)
    if made != arithmetic.exact(seconds) * fps:
        reason = f"{made} frames, the next 8n + 1, at {fps} a second; the file is trimmed back to {seconds} s"
        to = round(float(Fraction(made, fps)), 6)
        if seconds == DEFAULT_SECONDS:
            findings.follow("durationSeconds", seconds, to, reason)
        else:
            findings.adjust("durationSeconds", seconds, to, reason, exact={"durationFrames": made})
    return True


def _overlap(effective: dict[str, Any], start: str | None, overlap: str, findings: Findings) -> None:
    pictures, most = effective["overlapFrameImages"], frames(effective) - 1
    if len(pictures) > most:
        message = f"must have fewer frames than the clip: at most {most} of {most + 1}, not {len(pictures)}"
        findings.refuse(overlap, message, allowed={"maxItems": most})
    if start is not None:
        pictures[0], effective["startFrameImage"] = effective["startFrameImage"], None
        findings.adjust(
            f"{overlap}[0]",
            f"{overlap}[0]",
            start,
            "a start frame takes the place of the first overlap frame",
            exact=None,
        )
