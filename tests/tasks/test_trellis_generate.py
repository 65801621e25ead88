from __future__ import annotations

import math
from typing import Any

import pytest

from tasks.registry import TASKS
from tasks.trellis_generate import steps
from tests.tasks.asking import URL, prepare, refused, refused_input

TASK = "trellis.generate"


def test_every_default_is_filled_in() -> None:
    prepared = prepare(TASK, seed=1)
    assert prepared.effective_input == {
        "sourceImage": URL,
        "qualityPreset": "balanced",
        "targetFaceCount": 20_000,
        "textureSize": 1024,
        "textureResolution": 512,
        "meshResolution": 1024,
        "maxViews": 4,
        "sparseStructureSteps": 10,
        "shapeSteps": 10,
        "textureSteps": 10,
        "remeshFillHoles": True,
        "remeshFillHolesMaxPerimeter": 0.05,
        "meshClusterConeHalfAngleRad": math.pi / 2,
        "postprocessNormalCreaseDeg": 60,
        "postprocessPositionEpsilon": 1e-6,
        "seed": 1,
    }
    assert prepared.adjustments == ()
    assert steps(prepared.effective_input) == 30


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        ("fast", (512, 512, 8, 8, 8, 10_000, 1024)),
        ("balanced", (1024, 512, 10, 10, 10, 20_000, 1024)),
        ("high", (1536, 1024, 12, 12, 12, 100_000, 2048)),
    ],
)
def test_presets(preset: str, values: tuple[int, ...]) -> None:
    effective = prepare(TASK, qualityPreset=preset).effective_input
    names = ("meshResolution", "textureResolution", "sparseStructureSteps", "shapeSteps", "textureSteps")
    assert tuple(effective[name] for name in (*names, "targetFaceCount", "textureSize")) == values


def test_explicit_fields_override_a_preset_and_the_trail_says_so() -> None:
    prepared = prepare(TASK, strict=True, qualityPreset="high", meshResolution=512, textureSize=2048, shapeSteps=50)
    assert [(change.field, change.from_, change.to) for change in prepared.adjustments] == [
        ("meshResolution", 1536, 512),
        ("shapeSteps", 12, 50),
    ]
    assert steps(prepared.effective_input) == 12 + 50 + 12


@pytest.mark.parametrize("degrees", [3.15, 55, 180, 90.5])
def test_an_angle_that_cannot_be_radians_is_read_as_degrees(degrees: float) -> None:
    prepared = prepare(TASK, meshClusterConeHalfAngleRad=degrees)
    radians = math.radians(degrees)
    assert prepared.effective_input["meshClusterConeHalfAngleRad"] == radians
    assert [change.as_json() for change in prepared.adjustments] == [
        {
            "field": "meshClusterConeHalfAngleRad",
            "from": degrees,
            "to": radians,
            "reason": "degrees to radians",
            "at": "submit",
        }
    ]
    problem = refused(TASK, strict=True, meshClusterConeHalfAngleRad=degrees)["input.meshClusterConeHalfAngleRad"]
    assert problem.nearest == radians
    assert TASKS[TASK].prepare(prepared.effective_input, strict=True).adjustments == ()


@pytest.mark.parametrize("radians", [1e-9, 1, 3.14, math.pi])
def test_an_angle_in_radians_stays(radians: float) -> None:
    prepared = prepare(TASK, strict=True, meshClusterConeHalfAngleRad=radians)
    assert prepared.effective_input["meshClusterConeHalfAngleRad"] == radians


def test_a_model_needs_a_picture() -> None:
    (problem,) = refused_input(TASK, {"qualityPreset": "fast"})
    assert problem.path == "input.sourceImage"
    assert "sourceImageUrl" in problem.message


@pytest.mark.parametrize(
    ("fields", "near"),
    [
        ({"textureSize": 1500}, 1024),
        ({"textureSize": 5000}, 4096),
        ({"meshResolution": 1}, 512),
        ({"meshResolution": 1400}, 1536),
        ({"textureResolution": 800}, 1024),
    ],
)
def test_the_nearest_resolution_is_named(fields: dict[str, Any], near: int) -> None:
    (problem,) = refused(TASK, **fields).values()
    assert problem.nearest == near


def test_priors_rise_with_work() -> None:
    task = TASKS[TASK]
    prior = [
        task.prior_seconds(prepare(TASK, qualityPreset=preset).effective_input)
        for preset in ("fast", "balanced", "high")
    ]
    assert prior == sorted(prior)
