"""Every field of every task: its kind and its bounds, written down here by hand after the contract."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import jsonschema
import pytest

from core.errors import InvalidInput
from tasks.registry import TASKS
from tests.tasks.asking import CLONE, LEAST, URL, by_url, prepare, refused

QUALITIES = ["64k", "96k", "128k", "192k", "256k", "320k"]
AUDIO_FORMATS = ["opus", "mp3", "wav", "flac", "aac"]
IMAGE_MIMES = ["image/png", "image/jpeg", "image/jpg", "image/webp"]
AUDIO_NAMES = ["ogg", "opus", "wav", "x-wav", "wave", "mpeg", "mp3", "flac", "x-flac", "aac", "mp4", "webm"]
AUDIO_MIMES = [f"audio/{name}" for name in AUDIO_NAMES]
DATA = base64.b64encode(b"not looked at here").decode()


@dataclass(frozen=True)
class Kind:
    """What a field takes: `good` values, and `bad` ones with the nearest good one that the refusal names, if any."""

    good: tuple[Any, ...]
    bad: tuple[tuple[Any, Any], ...]
    stays: bool = True
    """Whether a good value is found unchanged, under the same name, in the effective input."""
    beside: dict[str, Any] = field(default_factory=dict)


def whole(low: int, high: int, **beside: Any) -> Kind:
    return Kind(
        (low, high, float(high)),
        (
            (low - 1, low),
            (high + 1, high),
            (10**400, high),
            (low + 0.5, low),
            (str(low), low),
            ("", None),
            ("x", None),
            (True, None),
            ([low], None),
            ({}, None),
            (float("nan"), None),
            (float("inf"), None),
        ),
        beside=beside,
    )


def number(low: float, high: float, **beside: Any) -> Kind:
    return Kind(
        (low, high, (low + high) / 2),
        (
            (low - 0.001, low),
            (high + 0.001, high),
            (-(10**400), low),
            (1e300, high),
            (str(high), high),
            ("", None),
            (False, None),
            ([], None),
            ({"x": 1}, None),
            (float("nan"), None),
            (float("-inf"), None),
        ),
        beside=beside,
    )


def text(low: int, high: int, **beside: Any) -> Kind:
    good = ("a" * max(low, 1), "𝒻🦊" * (high // 2), "é\u202e\u200d\ufeff\n\t" + "b" * low) + (("",) if low == 0 else ())
    bad: list[tuple[Any, Any]] = [
        ("a" * (high + 1), None),
        ("a" * low + "\0", None),
        ("\ud800" + "a" * low, None),
        (5, None),
        (True, None),
        (["a" * low], None),
        ({"a": 1}, None),
    ]
    if low:
        bad += [("", None), ("a" * (low - 1), None)]
    return Kind(good, tuple(bad), beside=beside)


def choice(*choices: Any, near: Any = None) -> Kind:
    bad: list[tuple[Any, Any]] = [("", near), ([], near), ({}, near), (True, near), ("\ud800", near)]
    if isinstance(choices[0], str):
        bad += [(each.upper(), each) for each in choices if each != each.upper()] + [(1, near)]
    else:
        bad += [(10**400, max(choices)), (-1, min(choices)), (choices[0] + 1, choices[0]), (str(choices[0]), near)]
    return Kind(choices, tuple(bad))


def switch() -> Kind:
    bad: tuple[Any, ...] = ("true", "", 1, 0, [], {}, 1.0)
    return Kind((True, False), tuple((wrong, None) for wrong in bad))


def url(stays: bool = False, **beside: Any) -> Kind:
    good = (URL, "HTTP://EXAMPLE.com", "https://a.example/é?x=1#y", "http://10.0.0.1:8080/")
    forms = (
        "",
        "a.webp",
        "ftp://a.example/",
        "https://",
        "data:image/png;base64,AAAA",
        "https://a.example/\n",
        "\ud800",
    )
    inline = {"dataBase64": DATA, "mimeType": "image/png"}
    bad: tuple[Any, ...] = (*forms, 5, True, [URL], inline, "https://a.example/" + "b" * 2031)
    return Kind(good, tuple((wrong, None) for wrong in bad), stays, beside)


def media(mimes: list[str], **beside: Any) -> Kind:
    inline = tuple({"dataBase64": DATA, "mimeType": mime} for mime in mimes)
    bad: tuple[Any, ...] = (
        {"dataBase64": DATA, "mimeType": "text/plain"},
        {"dataBase64": "*", "mimeType": mimes[0]},
        {"dataBase64": "", "mimeType": mimes[0]},
        {"dataBase64": DATA},
        {"mimeType": mimes[0]},
        {"url": URL},
        {},
        [URL],
        [],
        5,
        False,
        "",
        "/etc/passwd",
        "file:///etc/passwd",
    )
    return Kind((URL, *inline), tuple((wrong, None) for wrong in bad), beside=beside)


def several(each: Kind, low: int, high: int, *, stays: bool = True, **beside: Any) -> Kind:
    item = each.good[0]
    good = ([item] * high, [item] * low, [*each.good][:high])
    bad: list[Any] = [[item] * (high + 1), item, {}, 5, True, [None], [[item]]]
    bad += [[item, wrong][:high] for wrong, _ in each.bad]
    bad += [[item] * (low - 1)] if low else []
    return Kind(good, tuple((wrong, None) for wrong in bad), stays, beside)


SEED = whole(0, 2**31 - 1)
PROMPT = text(1, 4000)
IMAGE, AUDIO = media(IMAGE_MIMES), media(AUDIO_MIMES)
IMAGES, IMAGE_URLS = several(IMAGE, 0, 4), several(url(), 0, 4, stays=False)
IMAGE_FORMAT = choice("webp", "png", "jpg", near="webp")
AUDIO_FORMAT = choice(*AUDIO_FORMATS, near="opus")
QUALITY = choice(*QUALITIES, near="128k")
STEPS = whole(1, 50)
CLONED = {"voiceDescription": None, **CLONE}

FIELDS: dict[str, dict[str, Kind]] = {
    "image.generate": {
        "prompt": PROMPT,
        "negativePrompt": text(0, 4000),
        "width": whole(256, 16384, height=256),
        "height": whole(256, 16384, width=256),
        "outputFormat": IMAGE_FORMAT,
        "highDetail": switch(),
        "referenceImages": IMAGES,
        "referenceImageUrls": IMAGE_URLS,
        "seed": SEED,
    },
    "image.edit": {
        "prompt": PROMPT,
        "sourceImage": IMAGE,
        "sourceImageUrl": url(sourceImage=None),
        "referenceImages": IMAGES,
        "referenceImageUrls": IMAGE_URLS,
        "outputFormat": IMAGE_FORMAT,
        "highDetail": switch(),
        "seed": SEED,
    },
    "video.generate": {
        "prompt": PROMPT,
        "negativePrompt": text(0, 4000),
        "startFrameImage": IMAGE,
        "startFrameImageUrl": url(),
        "sourceImage": replace(IMAGE, stays=False),
        "sourceImageUrl": url(),
        "finalFrameImage": IMAGE,
        "finalFrameImageUrl": url(),
        "overlapFrameImages": several(IMAGE, 1, 33),
        "overlapFrameImageUrls": several(url(), 1, 33, stays=False),
        "referenceAudio": replace(AUDIO, beside={"startFrameImage": URL}),
        "referenceAudioUrl": url(startFrameImage=URL),
        "durationFrames": whole(9, 601),
        "durationSeconds": number(1, 20),
        "sampledFps": whole(8, 30),
        "interpolationFps": Kind(
            (0, 30, 60, 45.0),
            ((-1, 0), (61, 60), (1, 0), (14, 0), (15, 30), (29, 30), ("60", 60), (True, None), ([], None), ("", None)),
        ),
        "width": whole(256, 16384, height=256),
        "height": whole(256, 16384, width=256),
        "aspectRatio": replace(choice("16:9", "9:16", "1:1", "4:3", "3:4", "21:9", near="16:9"), stays=False),
        "extremeQuality": switch(),
        "seed": SEED,
    },
    "video.combine": {
        "videoUrls": several(url(), 2, 50),
        "overlapFrames": whole(0, 3600),
        "frameRate": number(1, 60),
        "overlapFps": number(1, 60),
        "seed": SEED,
    },
    "audio.speak": {
        "text": text(40, 600),
        "mode": choice("describe", near="describe"),
        "voiceDescription": text(20, 240),
        "referenceAudio": replace(AUDIO, beside=CLONED),
        "referenceAudioUrl": replace(url(), beside={**CLONED, "referenceAudio": None}),
        "referenceTranscript": text(1, 1000, **CLONED),
        "referenceAudioMaxSeconds": number(3, 10, **CLONED),
        "language": choice("English", near="English"),
        "quality": QUALITY,
        "outputFormat": AUDIO_FORMAT,
        "maxNewTokens": whole(64, 2048),
        "seed": SEED,
    },
    "audio.annotation.reference": {
        "sourceAudio": AUDIO,
        "sourceAudioUrl": url(sourceAudio=None),
        "transcript": text(1, 20_000),
        "sourceDurationSeconds": Kind(
            (0.001, 3600, 180.5),
            ((0, None), (-1, None), (3600.5, 3600), ("60", 60), ("", None), (True, None), ([], None)),
        ),
        "language": choice("en", "de", "yue"),
        "transcriptionModel": choice("distil-large-v3", "large-v3", near="distil-large-v3"),
        "device": choice("auto", "cpu", "cuda", near="auto"),
        "seed": SEED,
    },
    "ace.step.create": {
        "tags": text(1, 1000),
        "lyrics": replace(text(0, 6000), good=text(1, 6000).good),
        "qualityPreset": choice("standard", "high_quality", near="standard"),
        "durationSeconds": number(15, 240),
        "quality": choice(*QUALITIES),
        "language": choice("en", "de", "yue", near="en"),
        "outputFormat": AUDIO_FORMAT,
        "seed": SEED,
    },
    "moss.sound.effect": {
        "prompt": PROMPT,
        "durationSeconds": number(1, 30),
        "quality": QUALITY,
        "topK": whole(1, 200),
        "maxNewTokens": whole(64, 4096),
        "outputFormat": AUDIO_FORMAT,
        "seed": SEED,
    },
    "trellis.generate": {
        "sourceImage": IMAGE,
        "sourceImageUrl": url(sourceImage=None),
        "qualityPreset": choice("fast", "balanced", "high", near="balanced"),
        "targetFaceCount": whole(500, 500_000),
        "textureSize": choice(512, 1024, 2048, 4096),
        "textureResolution": choice(512, 1024),
        "meshResolution": choice(512, 1024, 1536),
        "maxViews": whole(1, 8),
        "sparseStructureSteps": STEPS,
        "shapeSteps": STEPS,
        "textureSteps": STEPS,
        "remeshFillHoles": switch(),
        "remeshFillHolesMaxPerimeter": number(0, 1),
        "meshClusterConeHalfAngleRad": Kind(
            (0.001, math.pi, 1),
            ((0, None), (-1, None), (3.1416, math.pi), (3.1499, math.pi), (180.001, 180), ("", None), (True, None)),
        ),
        "postprocessNormalCreaseDeg": number(0, 180),
        "postprocessPositionEpsilon": number(0, 0.01),
        "seed": SEED,
    },
}
PAIRS = [(task, name) for task, fields in FIELDS.items() for name in fields]
TWINS = [
    ("image.generate", {}, ("referenceImages", "referenceImageUrls")),
    ("image.edit", {}, ("referenceImages", "referenceImageUrls")),
    ("image.edit", {"sourceImage": None}, ("sourceImage", "sourceImageUrl")),
    ("video.generate", {}, ("startFrameImage", "startFrameImageUrl", "sourceImage", "sourceImageUrl")),
    ("video.generate", {}, ("finalFrameImage", "finalFrameImageUrl")),
    ("video.generate", {}, ("overlapFrameImages", "overlapFrameImageUrls")),
    ("video.generate", {"startFrameImage": URL}, ("referenceAudio", "referenceAudioUrl")),
    ("audio.speak", CLONED, ("referenceAudio", "referenceAudioUrl")),
    ("audio.annotation.reference", {"sourceAudio": None}, ("sourceAudio", "sourceAudioUrl")),
    ("trellis.generate", {"sourceImage": None}, ("sourceImage", "sourceImageUrl")),
]


def test_no_field_is_missing_here() -> None:
    assert set(FIELDS) == set(TASKS)
    for task, fields in FIELDS.items():
        assert set(fields) == set(TASKS[task].Input.wire_names())


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_what_a_field_takes(task: str, name: str) -> None:
    kind = FIELDS[task][name]
    assert len(kind.good) > 0
    for value in kind.good:
        effective = prepare(task, **{**kind.beside, name: value}).effective_input
        if kind.stays:
            assert by_url(effective[name]) == by_url(value)
            assert not isinstance(effective[name], float) or not effective[name].is_integer()
        again = by_url(effective)
        assert TASKS[task].prepare(again).effective_input == again


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_what_a_field_refuses(task: str, name: str) -> None:
    kind = FIELDS[task][name]
    for value, nearest in kind.bad:
        problems = refused(task, **{**kind.beside, name: value})
        ours = [problem for path, problem in problems.items() if path.startswith(f"input.{name}")]
        assert ours, (value, problems)
        assert ours[0].message
        if nearest is not None:
            assert ours[0].nearest == nearest, value
            prepare(task, **{**kind.beside, name: ours[0].nearest})


NUMBERS = [
    (task, name)
    for task, name in PAIRS
    if all(isinstance(good, int | float) and not isinstance(good, bool) for good in FIELDS[task][name].good)
]


@pytest.mark.parametrize(("task", "name"), NUMBERS)
def test_the_nearest_number_is_never_refused_itself(task: str, name: str) -> None:
    kind = FIELDS[task][name]
    low, high = min(kind.good), max(kind.good)
    values = {low - 1, high + 1, 0, *kind.good, *(round(low + (high - low) * step / 97, 6) for step in range(98))}
    values |= {int(value) for value in values} | ({3.145, 3.15} if "Angle" in name else set())
    found = 0
    for value in values:
        for sent in (value, str(value), int(value) + 0.5):
            try:
                prepare(task, **{**kind.beside, name: sent})
            except InvalidInput as error:
                problem = next(each for each in error.fields if each.path == f"input.{name}")
            else:
                continue
            assert problem.allowed is not None
            if "rule" not in problem.allowed:
                assert not jsonschema.Draft202012Validator(problem.allowed).is_valid(sent), (sent, problem.allowed)
            if problem.nearest is not None:
                found += 1
                prepare(task, **{**kind.beside, name: problem.nearest})
    assert found > 90


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("250", 249), (250.5, 249), (250, 249), ("256", 257), ("8", 9), ("602", 601), (8, 9), (True, None)],
)
def test_a_clip_length_is_told_as_a_rule(given: Any, nearest: int | None) -> None:
    problem = refused("video.generate", durationFrames=given)["input.durationFrames"]
    assert problem.allowed == {"type": "integer", "minimum": 9, "maximum": 601, "rule": "8n + 1"}
    assert problem.nearest == nearest


@pytest.mark.parametrize(("given", "nearest"), [("15", 30), ("14", 0), (14, 0), (29.5, 30), (61, 60), ("x", None)])
def test_interpolation_is_off_or_in_its_range(given: Any, nearest: int | None) -> None:
    problem = refused("video.generate", interpolationFps=given)["input.interpolationFps"]
    assert problem.allowed == {"type": "integer", "anyOf": [{"const": 0}, {"minimum": 30, "maximum": 60}]}
    assert problem.nearest == nearest


@pytest.mark.parametrize(("given", "nearest"), [(3.1499, math.pi), ("3.1450", math.pi), ("0", None), ("1.5", 1.5)])
def test_an_angle_is_in_radians_or_in_degrees(given: Any, nearest: float | None) -> None:
    problem = refused("trellis.generate", meshClusterConeHalfAngleRad=given)["input.meshClusterConeHalfAngleRad"]
    ranges = [{"exclusiveMinimum": 0, "maximum": math.pi}, {"minimum": 3.15, "maximum": 180}]
    assert problem.allowed == {"type": "number", "anyOf": ranges}
    assert problem.nearest == nearest


@pytest.mark.parametrize("sent", ["ftp://a.example/", "a.webp", 5, [URL], "https://me:secret@a.example/"])
@pytest.mark.parametrize("name", ["startFrameImage", "overlapFrameImages"])
def test_both_forms_of_a_medium_are_told(name: str, sent: Any) -> None:
    several_of = name.endswith("s")
    problems = refused("video.generate", **{name: [sent] if several_of else sent})
    url_form, inline_form = problems[f"input.{name}[0]" if several_of else f"input.{name}"].allowed["anyOf"]
    assert (url_form["type"], url_form["maxLength"]) == ("string", 2048)
    assert re.search(url_form["pattern"], URL)
    assert not re.search(url_form["pattern"], "ftp://a.example/")
    assert inline_form == {"type": "object", "required": ["dataBase64"]}


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_null_is_absence(task: str, name: str) -> None:
    null: dict[str, Any] = {name: None}
    if name in LEAST[task]:
        assert "is required" in refused(task, **null)[f"input.{name}"].message
    elif name == "seed":
        assert prepare(task, **null).seed_drawn
    else:
        assert prepare(task, seed=1, **null) == prepare(task, seed=1)


@pytest.mark.parametrize(
    ("task", "beside", "one", "other"),
    [(task, beside, *pair) for task, beside, names in TWINS for pair in permutations(names, 2)],
)
def test_two_names_of_the_same_medium_are_refused_and_both_named(
    task: str, beside: dict[str, Any], one: str, other: str
) -> None:
    values = {name: [URL] if name.endswith(("Images", "Urls")) else URL for name in (one, other)}
    problems = refused(task, **{**beside, **values})
    assert f"`{other}`" in problems[f"input.{one}"].message
    assert f"`{one}`" in problems[f"input.{other}"].message
    for name in (one, other):
        prepare(task, **{**beside, other: None, one: None, name: values[name]})


@pytest.mark.parametrize("task", TASKS)
def test_unknown_fields_and_the_field_nobody_has(task: str) -> None:
    problems = refused(task, steps=30, sead=1)
    assert "unknown field `steps`" in problems["input.steps"].message
    assert problems["input.sead"].nearest == "seed"
