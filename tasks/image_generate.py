"""`image.generate`: a picture from words, and from reference images if there are any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from tasks.base import Findings, Task
from tasks.canvas import Side, canvas
from tasks.examples import EXAMPLES
from tasks.fields import NegativePrompt, Prompt, TaskInput
from tasks.media_fields import ImageFormat, ImageReferences, ImageReferenceUrls, canonical

STEPS = 30


class ImageGenerateInput(TaskInput):
    """What `image.generate` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES["image.generate"]})

    prompt: Prompt = Field(description="What the picture shows.", examples=["cinematic fox astronaut"])
    negative_prompt: NegativePrompt = Field(
        "", description="What the picture must not show.", examples=["text, watermark"]
    )
    width: Side = Field(
        1024,
        description="Pixels; only together with height. Rounded down to a multiple of 32, which is then reported in "
        "inputAdjustments. Width × height is at most 4194304.",
        examples=[1536],
    )
    height: Side = Field(1024, description="Pixels; only together with width, under the same rules.", examples=[1024])
    output_format: ImageFormat = Field("webp", description="The file's format; jpeg is another name of jpg.")
    high_detail: bool = Field(
        False,
        description="Half as many steps again, at half the price again. Only when the caller explicitly wants a "
        "higher-detail pass.",
        json_schema_extra={"x-agent-hint": "opt-in"},
    )
    reference_images: ImageReferences = Field(
        default=[], description="Pictures to follow in style or content, at no charge."
    )
    reference_image_urls: ImageReferenceUrls = Field(
        default=[], description="The older, URL-only name of referenceImages; not beside it."
    )


class ImageGenerate(Task[ImageGenerateInput]):
    """The task `image.generate`."""

    name = "image.generate"
    title = "Generate an image"
    model = "Qwen Image"
    output = "image"
    Input = ImageGenerateInput

    def complete(self, given: ImageGenerateInput, findings: Findings) -> dict[str, Any]:
        """The legacy alias becomes `referenceImages`, and the canvas is rounded down."""
        names = given.given()
        effective = given.model_dump(exclude={"seed"})
        canonical(effective, names, findings, "referenceImages", "referenceImageUrls")
        effective["width"], effective["height"] = canvas(given.width, given.height, names, findings)
        return effective

    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """Reference images need the edit engine."""
        return ("qwen-image-edit",) if effective_input["referenceImages"] else ("qwen-image",)

    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """By pixels and steps."""
        pixels, references = (
            effective_input["width"] * effective_input["height"],
            bool(effective_input["referenceImages"]),
        )
        return seconds(steps(effective_input), pixels, references=references)


def seconds(step_count: int, pixels: int, *, references: bool) -> float:
    """Run time of a picture on one GPU: straight lines through two published timings each of vllm-omni (GPU not named).

    Qwen-Image: 512² in 20 steps 2.4 s, 1536² in 35 steps 23.6 s (issue 4289). Qwen-Image-Edit with two references:
    14.7 s and 57.0 s (issue 3695). One second is added for loading references, encoding and storing.
    """
    fixed, per_megapixel = (0.63, 0.43) if references else (0.05, 0.265)
    return 1.0 + step_count * (fixed + per_megapixel * float(pixels) / 1e6)


def steps(effective_input: Mapping[str, Any]) -> int:
    """How many denoising steps the picture takes: `STEPS`, half as many again in high detail."""
    return STEPS * 3 // 2 if effective_input["highDetail"] else STEPS
