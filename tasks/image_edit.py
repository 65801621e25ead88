"""`image.edit`: a picture made from another one, or from several, by words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from tasks import image_generate
from tasks.base import Findings, Task
from tasks.examples import EXAMPLES
from tasks.fields import Prompt, TaskInput
from tasks.media_fields import (
    ImageFormat,
    ImageReference,
    ImageReferences,
    ImageReferenceUrls,
    MediaUrl,
    canonical,
)

DEFAULT_SIDE = 1024
"""Pixels of both sides of what is made from references alone."""


class ImageEditInput(TaskInput):
    """What `image.edit` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES["image.edit"]})

    prompt: Prompt = Field(
        description="What to change, and into what.", examples=["turn this scene into a dramatic noir poster"]
    )
    source_image: ImageReference | None = Field(
        None,
        description="The picture to edit. The output follows it: turned upright by its EXIF orientation, aspect kept "
        "(beyond 4:1 padded to 4:1), scaled into 0.25…2 MP, each side rounded down to a multiple of 32. May be left "
        "out when there are reference images: the output is then 1024×1024.",
    )
    source_image_url: MediaUrl | None = Field(None, description="The URL-only name of sourceImage; not beside it.")
    reference_images: ImageReferences = Field(
        default=[], description="Pictures to follow in style or content, at no charge."
    )
    reference_image_urls: ImageReferenceUrls = Field(
        default=[], description="The older, URL-only name of referenceImages; not beside it."
    )
    output_format: ImageFormat = Field("webp", description="The file's format; jpeg is another name of jpg.")
    high_detail: bool = Field(
        False,
        description="Half as many steps again, at half the price again. Only when the caller explicitly wants a "
        "higher-detail pass.",
        json_schema_extra={"x-agent-hint": "opt-in"},
    )


class ImageEdit(Task[ImageEditInput]):
    """The task `image.edit`."""

    name = "image.edit"
    title = "Edit an image"
    model = "Qwen Image Edit"
    output = "image"
    Input = ImageEditInput

    def complete(self, given: ImageEditInput, findings: Findings) -> dict[str, Any]:
        """One name for the source and one for the references; at least one picture."""
        names = given.given()
        effective = given.model_dump(exclude={"seed"})
        source = canonical(effective, names, findings, "sourceImage", "sourceImageUrl")
        canonical(effective, names, findings, "referenceImages", "referenceImageUrls")
        if source is None and not effective["referenceImages"]:
            findings.refuse("sourceImage", "is required, as a URL or inline, unless there are referenceImages")
        return effective

    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """The edit engine."""
        return ("qwen-image-edit",)

    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """As for a picture of 1024×1024 with references: the source is not looked at before the job runs."""
        steps = image_generate.steps(effective_input)
        return image_generate.seconds(steps, DEFAULT_SIDE * DEFAULT_SIDE, references=True)
