"""`moss.sound.effect`: a sound from words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from media import arithmetic
from tasks.base import Findings, Task
from tasks.examples import EXAMPLES
from tasks.fields import PLAIN, WHOLE, Prompt, TaskInput
from tasks.media_fields import AudioFormat, Quality

MAX_TOKENS = 4096


class MossSoundEffectInput(TaskInput):
    """What `moss.sound.effect` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES["moss.sound.effect"]})

    prompt: Prompt = Field(
        description="What is heard.",
        examples=["A sharp pistol shot in a dry canyon with a quick mechanical click and short tail echo."],
    )
    duration_seconds: Annotated[float, Field(ge=1, le=30), PLAIN] = Field(
        5, description="Seconds, fractions allowed.", examples=[2]
    )
    quality: Quality = Field("128k", description="Bits a second, for the formats that are lossy.")
    top_k: Annotated[int, Field(ge=1, le=200), WHOLE] = Field(
        50, description="Each token is drawn from the topK likeliest.", examples=[50]
    )
    max_new_tokens: Annotated[int, Field(ge=64, le=MAX_TOKENS), WHOLE] = Field(
        1024,
        description="The most audio tokens to make; they are priced. Refused below 12.5 a second of durationSeconds.",
        examples=[1024],
    )
    output_format: AudioFormat = Field("opus", description="The file's format.")


class MossSoundEffect(Task[MossSoundEffectInput]):
    """The task `moss.sound.effect`."""

    name = "moss.sound.effect"
    title = "Make a sound effect"
    model = "MOSS sound effect"
    output = "audio"
    Input = MossSoundEffectInput

    def complete(self, given: MossSoundEffectInput, findings: Findings) -> dict[str, Any]:
        """The tokens must suffice for the seconds."""
        needed = arithmetic.tokens_for(given.duration_seconds)
        if given.max_new_tokens < needed:
            seconds, tokens = given.duration_seconds, given.max_new_tokens
            message = f"must be at least {needed}, not {tokens}: {seconds} s at 12.5 tokens a second"
            findings.refuse("maxNewTokens", message, allowed={"minimum": needed, "maximum": MAX_TOKENS}, nearest=needed)
        return given.model_dump(exclude={"seed"})

    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """The sound engine."""
        return ("moss",)

    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """Taken, not measured: 8 billion parameters in bf16 at 40 tokens a second, and 2 s for the codec."""
        return 2.0 + float(arithmetic.tokens_for(effective_input["durationSeconds"])) / 40

    def output_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """What was asked for."""
        return float(effective_input["durationSeconds"])
