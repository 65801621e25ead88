"""The four audio tasks: modes, tokens, bands and presets."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.audio_annotation_reference import longest_source, priced_band
from tasks.registry import TASKS
from tests.tasks.asking import CLONE, TEXT, URL, VOICE, prepare, refused, refused_input

CLONED = {**CLONE, "voiceDescription": None}


def test_speech_by_description() -> None:
    assert prepare("audio.speak", seed=1, language="en").effective_input == {
        "text": TEXT,
        "mode": "describe",
        "voiceDescription": VOICE,
        "referenceAudio": None,
        "referenceTranscript": None,
        "referenceAudioMaxSeconds": None,
        "language": "English",
        "quality": "128k",
        "outputFormat": "opus",
        "maxNewTokens": 2048,
        "seed": 1,
    }


def test_speech_by_a_recording() -> None:
    effective = prepare("audio.speak", **CLONED).effective_input
    assert effective["voiceDescription"] is None
    assert (effective["referenceAudioMaxSeconds"], effective["maxNewTokens"]) == (6, 384)
    assert (
        prepare("audio.speak", **CLONED, referenceAudioMaxSeconds=4.5).effective_input["referenceAudioMaxSeconds"]
        == 4.5
    )


@pytest.mark.parametrize(
    ("fields", "path", "says"),
    [
        ({"voiceDescription": None}, "voiceDescription", "is required in mode describe"),
        ({"referenceAudio": URL}, "referenceAudio", "voice_clone"),
        ({"referenceAudioUrl": URL}, "referenceAudioUrl", "voice_clone"),
        ({"referenceTranscript": "x"}, "referenceTranscript", "voice_clone"),
        ({"referenceAudioMaxSeconds": 6}, "referenceAudioMaxSeconds", "voice_clone"),
        (CLONE, "voiceDescription", "cannot be used in mode voice_clone"),
        ({**CLONED, "referenceTranscript": None}, "referenceTranscript", "is required in mode voice_clone"),
        ({**CLONED, "referenceAudio": None}, "referenceAudio", "is required in mode voice_clone"),
        ({"language": "German"}, "language", "one of English, en"),
        ({"language": "french"}, "language", "one of English, en"),
    ],
)
def test_each_mode_has_its_own_fields(fields: dict[str, Any], path: str, says: str) -> None:
    problems = refused("audio.speak", **fields)
    assert set(problems) == {f"input.{path}"}
    assert says in problems[f"input.{path}"].message


def test_tokens_must_suffice_for_the_text() -> None:
    long = "a" * 600
    problem = refused("audio.speak", text=long, maxNewTokens=499)["input.maxNewTokens"]
    assert problem.message == (
        "must be at least 500, not 499: 600 characters take an estimated 40.0 s, at 12.5 tokens a second"
    )
    assert problem.nearest == 500
    assert prepare("audio.speak", text=long, maxNewTokens=500).effective_input["maxNewTokens"] == 500
    # The default of a clone is too small for a long text, and the caller is told which value is not.
    assert refused("audio.speak", **{**CLONED, "text": long})["input.maxNewTokens"].nearest == 500
    prepare("audio.speak", **{**CLONED, "text": "a" * 460})


@pytest.mark.parametrize(
    ("fields", "band", "limit"),
    [
        ({}, 120, 240),
        ({"transcript": "a"}, 60, 180),
        ({"transcript": "a" * 720}, 60, 180),
        ({"transcript": "a" * 721}, 120, 240),
        ({"transcript": "[Intro]\n" + "a" * 720 + "\n\n[Outro]"}, 60, 180),
        ({"transcript": "a" * 2160}, 180, 360),
        ({"transcript": "a" * 2161}, 240, 480),
        ({"transcript": "a" * 20_000}, 1680, 3360),
        ({"sourceDurationSeconds": 30}, 60, 180),
        ({"sourceDurationSeconds": 200}, 240, 480),
        ({"sourceDurationSeconds": 200, "transcript": "a"}, 240, 480),
        ({"sourceDurationSeconds": 1, "transcript": "a" * 721}, 120, 240),
    ],
)
def test_the_priced_band(fields: dict[str, Any], band: int, limit: int) -> None:
    effective = prepare("audio.annotation.reference", **fields).effective_input
    assert (priced_band(effective), longest_source(effective)) == (band, limit)


@pytest.mark.parametrize("transcript", [" ", "[Intro]", "[Intro]\n\n[Verse] \t"])
def test_a_transcript_without_words_is_refused(transcript: str) -> None:
    problem = refused("audio.annotation.reference", transcript=transcript)["input.transcript"]
    assert "no words" in problem.message


def test_an_annotation_needs_a_recording() -> None:
    (problem,) = refused_input("audio.annotation.reference", {})
    assert problem.path == "input.sourceAudio"
    assert "sourceAudioUrl" in problem.message


def test_the_english_model_warns_of_other_languages() -> None:
    warned = prepare("audio.annotation.reference", language="de")
    assert warned.warnings == ("distil_large_v3_is_for_english",)
    for fields in ({}, {"language": "en"}, {"language": "de", "transcriptionModel": "large-v3"}):
        assert prepare("audio.annotation.reference", **fields).warnings == ()
    assert refused("audio.annotation.reference", language="xx")["input.language"].nearest is None
    task = TASKS["audio.annotation.reference"]
    large = prepare("audio.annotation.reference", transcriptionModel="large-v3").effective_input
    assert task.prior_seconds(warned.effective_input) < task.prior_seconds(large)


@pytest.mark.parametrize(
    ("fields", "seconds", "quality", "overridden"),
    [
        ({}, 60, "128k", []),
        ({"qualityPreset": "high_quality"}, 108, "192k", []),
        ({"qualityPreset": "high_quality", "durationSeconds": 108, "quality": "192k"}, 108, "192k", []),
        ({"qualityPreset": "high_quality", "durationSeconds": 15.5}, 15.5, "192k", ["durationSeconds"]),
        ({"quality": "64k", "durationSeconds": 240}, 240, "64k", ["durationSeconds", "quality"]),
    ],
)
def test_presets_fill_and_explicit_fields_override(
    fields: dict[str, Any], seconds: float, quality: str, overridden: list[str]
) -> None:
    prepared = prepare("ace.step.create", strict=True, **fields)
    assert (prepared.effective_input["durationSeconds"], prepared.effective_input["quality"]) == (seconds, quality)
    assert [change.field for change in prepared.adjustments] == overridden


def test_the_trail_says_what_was_overridden() -> None:
    (change,) = prepare("ace.step.create", durationSeconds=90).adjustments
    assert change.as_json() == {
        "field": "durationSeconds",
        "from": 60,
        "to": 90,
        "reason": "given; the preset standard has 60",
        "at": "submit",
    }


@pytest.mark.parametrize("lyrics", [None, "", " \n"])
def test_music_without_lyrics_is_instrumental(lyrics: str | None) -> None:
    assert prepare("ace.step.create", lyrics=lyrics).effective_input["lyrics"] is None


def test_the_richer_sampler_takes_longer() -> None:
    task = TASKS["ace.step.create"]
    plain, rich = (
        prepare("ace.step.create", qualityPreset=preset, durationSeconds=60).effective_input
        for preset in ("standard", "high_quality")
    )
    assert task.prior_seconds(plain) < task.prior_seconds(rich)


@pytest.mark.parametrize(
    ("seconds", "tokens", "needed"), [(30, 374, 375), (5.2, 64, 65), (30, 64, 375), (5.13, 64, 65)]
)
def test_a_sounds_tokens_must_suffice_for_its_seconds(seconds: float, tokens: int, needed: int) -> None:
    problem = refused("moss.sound.effect", durationSeconds=seconds, maxNewTokens=tokens)["input.maxNewTokens"]
    assert problem.nearest == needed
    assert f"at least {needed}, not {tokens}" in problem.message
    prepare("moss.sound.effect", durationSeconds=seconds, maxNewTokens=needed)


def test_a_sounds_defaults() -> None:
    assert prepare("moss.sound.effect", seed=1).effective_input == {
        "prompt": "a shot",
        "durationSeconds": 5,
        "quality": "128k",
        "topK": 50,
        "maxNewTokens": 1024,
        "outputFormat": "opus",
        "seed": 1,
    }
