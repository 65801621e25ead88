"""`audio.annotation.reference`: when each word, section and beat of a recording comes, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from media import arithmetic
from tasks.base import Findings, Task
from tasks.examples import EXAMPLES
from tasks.fields import PLAIN, TaskInput, Text
from tasks.languages import TranscribedLanguage
from tasks.media_fields import AudioReference, MediaUrl, canonical

BANDS = (60, 120, 180)
"""Seconds; above the last there is a band each `BAND_STEP`."""
BAND_STEP = 60
DEFAULT_BAND = 120
MIN_LIMIT = 180
MAX_TRANSCRIPT_CHARACTERS = 20_000
MAX_DECLARED_SECONDS = 3600
ENGLISH_MODEL = "distil-large-v3"
ENGLISH_MODEL_WARNING = "distil_large_v3_is_for_english"


def _has_words(text: str) -> str:
    if not arithmetic.sung_text(text):
        raise PydanticCustomError("wordless", "has no words outside its [tags]: leave it out, or give the words")
    return text


class AudioAnnotationReferenceInput(TaskInput):
    """What `audio.annotation.reference` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES["audio.annotation.reference"]})

    source_audio: AudioReference | None = Field(
        None,
        description="The recording; required, as this or as sourceAudioUrl. One longer than 180 s and longer than twice "
        "its priced band fails the job with media_too_long, at no cost.",
    )
    source_audio_url: MediaUrl | None = Field(None, description="The URL-only name of sourceAudio.")
    transcript: (
        Annotated[Text, Field(min_length=1, max_length=MAX_TRANSCRIPT_CHARACTERS), AfterValidator(_has_words)] | None
    ) = Field(
        None,
        description="The words, with [Intro]-style section tags on the way. Recommended: it anchors the lyrics and the "
        "sections. Its length sets the priced band, at 12 characters a second without tags, white space collapsed; "
        "without it the band is 120 s. One that has no words outside its tags is refused.",
    )
    source_duration_seconds: Annotated[float, Field(gt=0, le=MAX_DECLARED_SECONDS), PLAIN] | None = Field(
        None,
        description="How long the recording is, when that is known: raises the priced band when the transcript alone "
        "would set a lower one, and sets it when there is none.",
        examples=[200],
    )
    language: TranscribedLanguage | None = Field(
        None, description="The language's code, such as en; detected when absent.", examples=["en"]
    )
    transcription_model: Literal["distil-large-v3", "large-v3"] = Field(
        "distil-large-v3",
        description="The Whisper model. distil-large-v3 was trained for English: another language is accepted with the "
        f"warning {ENGLISH_MODEL_WARNING}.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="A hint; the result and the price are the same.")


class AudioAnnotationReference(Task[AudioAnnotationReferenceInput]):
    """The task `audio.annotation.reference`."""

    name = "audio.annotation.reference"
    title = "Annotate a recording"
    model = "Whisper, then lyric anchoring"
    output = "json"
    Input = AudioAnnotationReferenceInput

    def complete(self, given: AudioAnnotationReferenceInput, findings: Findings) -> dict[str, Any]:
        """One name for the recording."""
        effective = given.model_dump(exclude={"seed"})
        if canonical(effective, given.given(), findings, "sourceAudio", "sourceAudioUrl") is None:
            findings.refuse("sourceAudio", "is required, as a URL or inline (or give sourceAudioUrl)")
        return effective

    def warnings(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """Another language with the model for English."""
        english = effective_input["language"] in (None, "en")
        return () if english or effective_input["transcriptionModel"] != ENGLISH_MODEL else (ENGLISH_MODEL_WARNING,)

    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """The transcription engine."""
        return ("whisper",)

    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """Taken, not measured: 30 times real time for distil-large-v3 with alignment and beats, a third for large-v3."""
        speed = 30 if effective_input["transcriptionModel"] == ENGLISH_MODEL else 10
        return 2.0 + priced_band(effective_input) / speed


def priced_band(effective_input: Mapping[str, Any]) -> int:
    """The band in seconds that the price goes by."""
    transcript, declared = effective_input["transcript"], effective_input["sourceDurationSeconds"]
    if transcript is None and declared is None:
        return DEFAULT_BAND
    sung = arithmetic.lyric_seconds(transcript) if transcript is not None else 0
    return arithmetic.band(max(sung, arithmetic.exact(declared or 0)), BANDS, BAND_STEP)


def longest_source(effective_input: Mapping[str, Any]) -> int:
    """Seconds; a longer recording is `media_too_long`."""
    return max(MIN_LIMIT, 2 * priced_band(effective_input))
