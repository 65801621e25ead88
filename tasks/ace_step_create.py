"""`ace.step.create`: music from tags, sung when there are lyrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from tasks.base import Findings, Task
from tasks.examples import EXAMPLES
from tasks.fields import PLAIN, TaskInput, Text
from tasks.languages import SungLanguage
from tasks.media_fields import AudioFormat, Quality

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "standard": {"durationSeconds": 60, "quality": "128k"},
    "high_quality": {"durationSeconds": 108, "quality": "192k"},
}


class AceStepCreateInput(TaskInput):
    """What `ace.step.create` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES["ace.step.create"]})

    tags: Annotated[Text, Field(min_length=1, max_length=1000)] = Field(
        description="How the music sounds: genre, instruments, mood, production.",
        examples=["anthemic electro-pop, wide stereo synths, strong vocal hooks"],
    )
    lyrics: Annotated[Text, Field(max_length=6000)] | None = Field(
        None,
        description="What is sung, with [Verse]-style section tags. Absent or blank: instrumental.",
        examples=["[Verse]\nNeon rain on the avenue"],
    )
    quality_preset: Literal["standard", "high_quality"] = Field(
        "standard",
        description="standard: 60 s at 128k. high_quality: 108 s at 192k, and the richer sampler. Fields that are given "
        "count before the preset's, which inputAdjustments says where they differ.",
    )
    duration_seconds: Annotated[float, Field(ge=15, le=240), PLAIN] | None = Field(
        None, description="Seconds, fractions allowed; the preset's when absent.", examples=[108]
    )
    quality: Quality | None = Field(
        None,
        description="Bits a second; the preset's when absent. It sets the price for wav and flac too.",
        examples=["192k"],
    )
    language: SungLanguage = Field("en", description="The code of the language that is sung.")
    output_format: AudioFormat = Field("opus", description="The file's format.")


class AceStepCreate(Task[AceStepCreateInput]):
    """The task `ace.step.create`."""

    name = "ace.step.create"
    title = "Create music"
    model = "Ace Step"
    output = "audio"
    Input = AceStepCreateInput

    def complete(self, given: AceStepCreateInput, findings: Findings) -> dict[str, Any]:
        """The preset fills what was not given."""
        effective = given.model_dump(exclude={"seed"})
        findings.fill(effective, given.given(), given.quality_preset, PRESETS[given.quality_preset])
        if given.lyrics is not None and not given.lyrics.strip():
            effective["lyrics"] = None
        return effective

    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """The music engine."""
        return ("ace-step",)

    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """Taken, not measured: 60 times real time for the turbo model (its authors say 100 on an A100), a tenth for the
        50 guided steps of high_quality.
        """
        speed = 6 if effective_input["qualityPreset"] == "high_quality" else 60
        return 2.0 + float(effective_input["durationSeconds"]) / speed

    def output_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """What was asked for."""
        return float(effective_input["durationSeconds"])
