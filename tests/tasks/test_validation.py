from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from core.errors import FieldProblem, InvalidInput
from tasks.base import Findings
from tasks.fields import WHOLE, InputModel, Text
from tasks.validation import ALLOWED, MAX_PROBLEMS, closest, problems, shown, validated


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise PydanticCustomError("odd", "must be odd", {"nearest": value + 1})
    return value


class Clip(InputModel):
    frame_rate: Annotated[int, Field(gt=0, lt=100), WHOLE] = 30
    duration_seconds: Annotated[float, Field(ge=1, le=20)] = 6
    texture_size: Literal[512, 1024, 2048] = 1024
    language: Literal["English"] = "English"
    names: Annotated[list[Text], Field(min_length=2)] = Field(default=["a", "b"])


class Body(InputModel):
    clip: Clip
    count: int | None = None


def found(raw: object, root: str = "input") -> tuple[FieldProblem, ...]:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(raw)
    return problems(caught.value, Body, root)


@pytest.mark.parametrize(
    ("clip", "path", "message", "nearest"),
    [
        ({"frameRate": 0}, "frameRate", "must be greater than 0, not 0", None),
        ({"frameRate": 100}, "frameRate", "must be less than 100, not 100", None),
        ({"durationSeconds": 21}, "durationSeconds", "must be at most 20, not 21", 20),
        ({"durationSeconds": "3.5"}, "durationSeconds", "must be a number, not '3.5'", 3.5),
        ({"durationSeconds": float("nan")}, "durationSeconds", "must be a finite number, not nan", None),
        ({"durationSeconds": float("inf")}, "durationSeconds", "must be a finite number, not inf", None),
        ({"durationSeconds": True}, "durationSeconds", "must be a number, not true", None),
        ({"textureSize": 1500}, "textureSize", "must be one of 512, 1024, 2048, not 1500", 1024),
        ({"textureSize": 10**9}, "textureSize", "must be one of 512, 1024, 2048, not 1000000000", 2048),
        ({"textureSize": "512"}, "textureSize", "must be one of 512, 1024, 2048, not '512'", 1024),
        ({"textureSize": 10**400}, "textureSize", "must be one of 512, 1024, 2048, not a huge number", 2048),
        ({"textureSize": True}, "textureSize", "must be one of 512, 1024, 2048, not true", 1024),
        ({"durationSeconds": 10**400}, "durationSeconds", "must be a number, not a huge number", 20),
        ({"language": "Englisch"}, "language", "must be one of English, not 'Englisch'", "English"),
        ({"names": ["a"]}, "names", "must have at least 2 items, not 1", None),
        ({"names": ["a", 5]}, "names[1]", "must be a string, not 5", None),
        (
            {"durationSecond": 5},
            "durationSecond",
            "unknown field `durationSecond`, did you mean `durationSeconds`?",
            "durationSeconds",
        ),
    ],
)
def test_nested_problems(clip: dict[str, Any], path: str, message: str, nearest: object) -> None:
    (problem,) = found({"clip": clip})
    assert (problem.path, problem.message, problem.nearest) == (f"input.clip.{path}", message, nearest)


class Odd(InputModel):
    size: Annotated[int, Field(ge=3, le=9, json_schema_extra={ALLOWED: {"rule": "odd"}}), AfterValidator(_odd)] = 3
    sizes: list[Annotated[int, Field(ge=3), AfterValidator(_odd)]] = Field(default=[])
    above: Annotated[float, Field(gt=0)] = 1


def _nearest(raw: object) -> list[Any]:
    with pytest.raises(InvalidInput) as caught:
        validated(Odd, raw)
    return [problem.nearest for problem in caught.value.fields]


@pytest.mark.parametrize(
    ("raw", "nearest"),
    [
        ({"size": "5"}, 5),
        ({"size": "4"}, 5),
        ({"size": 4.5}, 5),
        ({"size": "1"}, 3),
        ({"size": 4}, 5),
        ({"sizes": [3, "6"]}, 7),
        ({"above": "0"}, None),
        ({"above": "-1"}, None),
        ({"above": -(10**400)}, None),
        ({"above": "0.5"}, 0.5),
    ],
)
def test_what_is_nearest_is_itself_accepted(raw: dict[str, Any], nearest: object) -> None:
    assert _nearest(raw) == [nearest]


def test_a_field_may_say_by_itself_what_is_allowed() -> None:
    for value in (4, "4", 11):
        with pytest.raises(InvalidInput) as caught:
            validated(Odd, {"size": value})
        assert caught.value.fields[0].allowed == {"rule": "odd"}


def test_an_empty_root_gives_bare_paths() -> None:
    assert [problem.path for problem in found({"clip": 5, "count": "1"}, root="")] == ["clip", "count"]


def test_nullable_types_are_shown_without_null() -> None:
    (problem,) = found({"clip": {}, "count": "12"})
    assert (problem.allowed, problem.nearest) == ({"type": "integer"}, 12)


def test_null_is_absence_only_for_known_fields() -> None:
    assert Body.model_validate({"clip": {"frameRate": None}, "count": None}) == Body.model_validate({"clip": {}})
    assert [problem.path for problem in found({"clip": None, "extra": None})] == ["input.clip", "input.extra"]


def test_whole_floats_are_integers_and_stay_exact() -> None:
    clip = Clip.model_validate({"frameRate": 60.0})
    assert type(clip.frame_rate) is int


def test_problems_are_capped() -> None:
    assert len(found({f"x{index}": 0 for index in range(60)})) == MAX_PROBLEMS


def test_the_message_counts_the_rest() -> None:
    with pytest.raises(InvalidInput, match=r"^input\.clip: is required \(and 2 more problems\)$"):
        validated(Body, {"a": 1, "b": 2})
    with pytest.raises(InvalidInput, match=r"^body\.clip: is required$"):
        validated(Body, {}, "body")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        (-(10**4000), "a huge number"),
        ("x" * 41, "'" + "x" * 40 + "…'"),
        ("\ud800\n", "'\\ud800\\n'"),
        ({"a": 1}, "an object"),
        ([1], "a list"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text


def test_closest() -> None:
    known = ["durationSeconds", "durationFrames", "seed"]
    assert closest("DURATION_SECONDS", known) == "durationSeconds"
    assert closest("unrelated", known) is None
    assert closest(5, known) is None
    assert closest("s" * 10_000_000, known) is None


def test_findings_become_strict_problems() -> None:
    findings = Findings()
    findings.adjust("durationSeconds", 5, 5.1, "8n+1 frames")
    findings.refuse_adjustments()
    assert [problem.as_json() for problem in findings.problems] == [
        {
            "path": "input.durationSeconds",
            "message": "5 would be changed to 5.1 (8n+1 frames), which strict mode refuses",
            "nearest": 5.1,
        }
    ]


def test_an_adjustment_that_no_value_avoids_has_no_nearest() -> None:
    findings = Findings()
    findings.adjust("names[0]", "names[0]", "first", "takes its place", exact=None)
    findings.refuse_adjustments()
    assert findings.problems[0].nearest is None
