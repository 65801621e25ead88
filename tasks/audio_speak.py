"""`audio.speak`: text as speech, by a described voice or by one from a recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from media import arithmetic
from tasks.base import Findings, Task
from tasks.examples import EXAMPLES
from tasks.fields import PLAIN, WHOLE, TaskInput, Text
from tasks.media_fields import AudioFormat, AudioReference, MediaUrl, Quality, canonical

DEFAULT_TOKENS = {"describe": 2048, "voice_clone": 384}
MAX_TOKENS = 2048
DEFAULT_REFERENCE_SECONDS = 6
MIN_REFERENCE_SECONDS, MAX_REFERENCE_SECONDS = 3, 10
CLONE = "voice_clone"

Language = Annotated[Literal["English", "en"], AfterValidator(lambda name: "English")]


class AudioSpeakInput(TaskInput):
    """What `audio.speak` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES["audio.speak"]})

    text: Annotated[Text, Field(min_length=40, max_length=600)] = Field(
        description="What is said. Its characters (Unicode code points), 15 a second, are the estimated duration, by "
        "which the price goes.",
        examples=["We launch at dawn, hold formation, and bring everyone home safely."],
    )
    mode: Literal["describe", "voice_clone"] = Field(
        "describe",
        description="describe: the voice that voiceDescription describes; voice_clone: that of referenceAudio.",
    )
    voice_description: Annotated[Text, Field(min_length=20, max_length=240)] | None = Field(
        None,
        description="How the voice sounds. Required in mode describe, refused in mode voice_clone.",
        examples=["Warm confident narrator with balanced pacing, stable projection, and natural emphasis."],
    )
    reference_audio: AudioReference | None = Field(
        None,
        description="A recording of the voice, 3 to 10 s long (shorter or longer fails the job, at no cost). Required in "
        "mode voice_clone, as this or as referenceAudioUrl; refused in mode describe.",
    )
    reference_audio_url: MediaUrl | None = Field(None, description="The URL-only name of referenceAudio.")
    reference_transcript: Annotated[Text, Field(min_length=1, max_length=1000)] | None = Field(
        None,
        description="What is said in the recording. Required in mode voice_clone, refused in mode describe.",
        examples=["Rin keeps her voice low. She measures every word before it lands."],
    )
    reference_audio_max_seconds: (
        Annotated[float, Field(ge=MIN_REFERENCE_SECONDS, le=MAX_REFERENCE_SECONDS), PLAIN] | None
    ) = Field(
        None,
        description="Seconds of the recording to use, 6 when absent: a longer one is cut at the nearest pause, and the "
        "transcript to the words inside. Refused in mode describe.",
        examples=[6],
    )
    language: Language = Field("English", description="English alone; en is another name of it.")
    quality: Quality = Field("128k", description="Bits a second, for the formats that are lossy.")
    output_format: AudioFormat = Field("opus", description="The file's format.")
    max_new_tokens: Annotated[int, Field(ge=64, le=MAX_TOKENS), WHOLE] | None = Field(
        None,
        description="The most audio tokens to make, 12.5 a second: 2048 in mode describe and 384 in mode voice_clone when "
        "absent. Refused when the estimated duration needs more.",
        examples=[384],
    )


class AudioSpeak(Task[AudioSpeakInput]):
    """The task `audio.speak`."""

    name = "audio.speak"
    title = "Speak a text"
    model = "Qwen TTS"
    output = "audio"
    Input = AudioSpeakInput

    def complete(self, given: AudioSpeakInput, findings: Findings) -> dict[str, Any]:
        """Each mode has its own fields: those of the other are refused, not ignored."""
        names = given.given()
        effective = given.model_dump(exclude={"seed"})
        audio = canonical(effective, names, findings, "referenceAudio", "referenceAudioUrl")
        if given.mode == CLONE:
            if effective["referenceAudioMaxSeconds"] is None:
                effective["referenceAudioMaxSeconds"] = DEFAULT_REFERENCE_SECONDS
            if audio is None:
                findings.refuse("referenceAudio", "is required in mode voice_clone, as a URL or inline")
            if given.reference_transcript is None:
                findings.refuse("referenceTranscript", "is required in mode voice_clone: what the recording says")
            if given.voice_description is not None:
                findings.refuse("voiceDescription", "cannot be used in mode voice_clone: the recording is the voice")
        else:
            if given.voice_description is None:
                findings.refuse("voiceDescription", "is required in mode describe: how the voice sounds")
            for name in (audio, "referenceTranscript", "referenceAudioMaxSeconds"):
                if name is not None and name in names:
                    findings.refuse(name, 'needs mode "voice_clone": set it, or leave this out')
        _tokens(given, effective, findings)
        return effective

    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """The speech engine."""
        return ("qwen-tts",)

    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """Plain Qwen3-TTS 1.7B speaks at 0.59 of real time on an H100 (faster-qwen3-tts, page of its 0.1.0)."""
        return 1.0 + float(arithmetic.speech_seconds(effective_input["text"])) / 0.59

    def output_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """The estimated duration, by which the price goes."""
        return float(arithmetic.speech_seconds(effective_input["text"]))


def _tokens(given: AudioSpeakInput, effective: dict[str, Any], findings: Findings) -> None:
    if given.max_new_tokens is None:
        effective["maxNewTokens"] = DEFAULT_TOKENS[given.mode]
    seconds = arithmetic.speech_seconds(given.text)
    needed = arithmetic.tokens_for(seconds)
    if effective["maxNewTokens"] < needed:
        message = (
            f"must be at least {needed}, not {effective['maxNewTokens']}: {len(given.text)} characters take an estimated "
            f"{float(seconds):.1f} s, at 12.5 tokens a second"
        )
        findings.refuse("maxNewTokens", message, allowed={"minimum": needed, "maximum": MAX_TOKENS}, nearest=needed)
