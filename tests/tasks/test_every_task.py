"""What holds for each task alike: schemas, examples, round trips, and any JSON at all."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import FieldProblem, InvalidInput
from tasks.base import Prepared
from tasks.registry import TASKS
from tests.tasks.asking import LEAST, by_url, prepare

POOLS = {
    "image.generate": ("qwen-image",),
    "image.edit": ("qwen-image-edit",),
    "video.generate": ("ltx-video", "rife"),
    "video.combine": ("cpu",),
    "audio.speak": ("qwen-tts",),
    "audio.annotation.reference": ("whisper",),
    "ace.step.create": ("ace-step",),
    "moss.sound.effect": ("moss",),
    "trellis.generate": ("trellis",),
}
OUTPUTS = {
    "image.generate": "image",
    "image.edit": "image",
    "video.generate": "video",
    "video.combine": "video",
    "audio.speak": "audio",
    "audio.annotation.reference": "json",
    "ace.step.create": "audio",
    "moss.sound.effect": "audio",
    "trellis.generate": "mesh",
}


@pytest.mark.parametrize("task", TASKS)
def test_the_schema_accepts_its_examples_and_describes_every_field(task: str) -> None:
    schema = TASKS[task].Input.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert schema["examples"]
    for example in schema["examples"]:
        validator.validate(example)
    validator.validate({**LEAST[task], "seed": None})
    assert not validator.is_valid({**LEAST[task], "steps": 30})
    assert list(schema["properties"]) == [*TASKS[task].Input.wire_names()[1:], "seed"]
    for name, node in schema["properties"].items():
        assert node.get("description"), name
        assert "title" not in node


@pytest.mark.parametrize("task", TASKS)
def test_every_example_of_a_field_is_accepted_by_its_own_schema(task: str) -> None:
    properties = TASKS[task].Input.model_json_schema()["properties"]
    for node in properties.values():
        for example in node.get("examples", ()):
            jsonschema.Draft202012Validator(node).validate(example)


@pytest.mark.parametrize("task", TASKS)
def test_an_effective_input_prepares_to_itself(task: str) -> None:
    schema = TASKS[task].Input.model_json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    for raw in (LEAST[task], *schema["examples"]):
        effective = by_url(TASKS[task].prepare(raw).effective_input)
        validator.validate(effective)
        assert TASKS[task].prepare(json.loads(json.dumps(effective))).effective_input == effective


@pytest.mark.parametrize("task", TASKS)
def test_the_least_input_needs_no_adjustment(task: str) -> None:
    prepared = TASKS[task].prepare(LEAST[task], strict=True)
    assert prepared == Prepared(prepared.effective_input, (), (), seed_drawn=True)


@pytest.mark.parametrize("task", TASKS)
def test_strict_takes_back_what_strict_made(task: str) -> None:
    effective = TASKS[task].prepare(LEAST[task], strict=True).effective_input
    assert TASKS[task].prepare(effective, strict=True).effective_input == effective


@pytest.mark.parametrize("task", TASKS)
def test_pools_outputs_and_priors(task: str) -> None:
    found, effective = TASKS[task], prepare(task).effective_input
    assert found.pools(effective) == POOLS[task]
    assert found.output == OUTPUTS[task]
    assert math.isfinite(found.prior_seconds(effective))
    assert 1 < found.prior_seconds(effective) < 300


@pytest.mark.parametrize(
    ("task", "given", "seconds"),
    [
        ("image.generate", {}, None),
        ("image.edit", {}, None),
        ("video.generate", {"durationSeconds": 2.5}, 2.5),
        ("video.generate", {"durationSeconds": 2.5, "interpolationFps": 0}, 2.5),
        ("video.generate", {"durationFrames": 257, "sampledFps": 25}, 615 / 60),
        ("video.generate", {"durationFrames": 257, "sampledFps": 25, "interpolationFps": 0}, 257 / 25),
        ("video.combine", {}, None),
        ("audio.speak", {"text": "x" * 60}, 4.0),
        ("audio.annotation.reference", {"sourceDurationSeconds": 200}, None),
        ("ace.step.create", {}, 60.0),
        ("ace.step.create", {"qualityPreset": "high_quality"}, 108.0),
        ("moss.sound.effect", {"durationSeconds": 7.5}, 7.5),
        ("trellis.generate", {}, None),
    ],
)
def test_how_long_the_output_plays(task: str, given: dict[str, Any], seconds: float | None) -> None:
    assert TASKS[task].output_seconds(prepare(task, **given).effective_input) == seconds


NAMES = st.sampled_from(sorted({name for task in TASKS.values() for name in task.Input.wire_names()}))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 5000) | st.floats() | st.text(st.characters(), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=6), inner, max_size=6),
    max_leaves=8,
)


@settings(max_examples=600, deadline=None)
@given(task=st.sampled_from(sorted(TASKS)), raw=st.dictionaries(NAMES, JSON, max_size=8), least=st.booleans())
def test_any_json_is_prepared_or_refused_in_words_that_can_be_sent(task: str, raw: dict[str, Any], least: bool) -> None:
    known = TASKS[task].Input.wire_names()
    asked = {**LEAST[task], **{name: value for name, value in raw.items() if name in known}} if least else raw
    problems: tuple[FieldProblem, ...] = ()
    try:
        effective = TASKS[task].prepare(asked).effective_input
    except InvalidInput as error:
        problems, body = error.fields, json.dumps(error.as_json(), ensure_ascii=False, allow_nan=False).encode()
    else:
        again = by_url(effective)
        assert TASKS[task].prepare(json.loads(json.dumps(again))).effective_input == again
        return
    assert problems
    assert all(problem.path.startswith("input") for problem in problems)
    assert len(body) < 40_000
