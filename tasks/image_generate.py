"""`image.generate`: a picture from words, and from reference images if there are any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from tasks.base import Findings, Task
from tasks.canvas import MAX_SIDE, MIN_SIDE, canvas
from tasks.fields import WHOLE, TaskInput, Text
from tasks.media_fields import ImageFormat, ImageReference, MediaUrl

MAX_PROMPT_CHARACTERS = 4000
MAX_REFERENCES = 4
STEPS = 30
_ONE_PIXEL_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="

Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE), WHOLE]
Prompt = Annotated[Text, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]


class ImageGenerateInput(TaskInput):
    """What `image.generate` takes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "cinematic fox astronaut", "width": 1024, "height": 1024},
                {
                    "prompt": "cinematic fox astronaut",
                    "width": 1536,
                    "height": 1024,
                    "referenceImages": [
                        "https://cdn.example.com/input/style-ref.webp",
                        {"dataBase64": _ONE_PIXEL_PNG, "mimeType": "image/png"},
                    ],
                },
            ]
        }
    )

    prompt: Prompt = Field(description="What the picture shows.", examples=["cinematic fox astronaut"])
    negative_prompt: Annotated[Text, Field(max_length=MAX_PROMPT_CHARACTERS)] = Field(
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
    reference_images: list[ImageReference] = Field(
        default=[], max_length=MAX_REFERENCES, description="Pictures to follow in style or content, at no charge."
    )
    reference_image_urls: list[MediaUrl] = Field(
        default=[],
        max_length=MAX_REFERENCES,
        description="The older, URL-only name of referenceImages; not beside it.",
        json_schema_extra={"deprecated": True},
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
        effective = given.model_dump(exclude={"seed", "reference_image_urls"})
        if given.model_fields_set >= {"reference_images", "reference_image_urls"}:
            for name, other in (("referenceImages", "referenceImageUrls"), ("referenceImageUrls", "referenceImages")):
                findings.refuse(name, f"cannot stand beside `{other}`: give one of the two")
        elif "reference_image_urls" in given.model_fields_set:
            effective["referenceImages"] = given.reference_image_urls
        effective["width"], effective["height"] = canvas(given.width, given.height, given.model_fields_set, findings)
        return effective

    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """Reference images need the edit engine."""
        return ("qwen-image-edit",) if effective_input["referenceImages"] else ("qwen-image",)

    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """Straight lines through two published single-GPU timings each of vllm-omni (GPU not named there).

        Qwen-Image: 512² in 20 steps 2.4 s, 1536² in 35 steps 23.6 s (issue 4289). Qwen-Image-Edit with two references:
        14.7 s and 57.0 s (issue 3695). One second is added for loading references, encoding and storing.
        """
        megapixels = float(effective_input["width"] * effective_input["height"]) / 1e6
        fixed, per_megapixel = (0.63, 0.43) if effective_input["referenceImages"] else (0.05, 0.265)
        return 1.0 + steps(effective_input) * (fixed + per_megapixel * megapixels)


def steps(effective_input: Mapping[str, Any]) -> int:
    """How many denoising steps the picture takes: `STEPS`, half as many again in high detail."""
    return STEPS * 3 // 2 if effective_input["highDetail"] else STEPS
