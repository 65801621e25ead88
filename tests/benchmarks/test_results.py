from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from benchmarks.results import Better, Result, document, line, render

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["machine", "commit", "date", "busyBefore", "results", "skipped"],
    "additionalProperties": False,
    "properties": {
        "machine": {"type": "string", "minLength": 1},
        "commit": {"type": "string", "minLength": 1},
        "date": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT"},
        "busyBefore": {"type": "number", "minimum": 0, "maximum": 1},
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "value", "unit", "versus", "versusValue", "ratio", "limit", "better", "met"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "pattern": r"^[a-z_0-9]+\.[a-z_0-9]+$"},
                    "value": {"type": "number", "exclusiveMinimum": 0},
                    "unit": {"type": "string"},
                    "versus": {"type": "string"},
                    "versusValue": {"type": "number", "exclusiveMinimum": 0},
                    "ratio": {"type": "number", "exclusiveMinimum": 0},
                    "limit": {"type": ["number", "null"]},
                    "better": {"enum": ["lower", "higher"]},
                    "met": {"type": ["boolean", "null"]},
                },
            },
        },
        "skipped": {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
    },
}


def result(value: float = 30.0, versus: float = 100.0, better: Better = "higher", limit: float | None = 0.2) -> Result:
    return Result("status_http.throughput", value, "reads/s", "a constant JSON", versus, better, limit)


def latest(*results: Result, busy: float = 0.04, skipped: Mapping[str, str] | None = None) -> dict[str, Any]:
    made = document("a machine, 2 cores", "0123456789ab", "2026-11-23T10:00:00.000Z", busy, results, skipped or {})
    return dict(json.loads(json.dumps(made)))


@pytest.mark.parametrize(
    ("value", "better", "limit", "met"),
    [
        (39, "higher", 0.4, False),
        (40, "higher", 0.4, True),
        (250, "higher", 0.4, True),
        (151, "lower", 1.5, False),
        (150, "lower", 1.5, True),
        (1, "lower", 1.5, True),
        (1, "lower", None, None),
        (1, "higher", None, None),
    ],
)
def test_the_limit_bounds_the_ratio_from_the_side_that_is_worse(
    value: float, better: Better, limit: float | None, met: bool | None
) -> None:
    assert result(value, 100, better, limit).met is met


@pytest.mark.parametrize("nothing", [0, -1, math.nan, math.inf])
def test_no_ratio_is_made_of_what_was_not_measured(nothing: float) -> None:
    with pytest.raises(ValueError, match="status_http"):
        result(value=nothing)
    with pytest.raises(ValueError, match="status_http"):
        result(versus=nothing)


def test_the_document_keeps_to_its_schema() -> None:
    made = latest(result(), result(limit=None), result(better="lower"))
    jsonschema.validate(made, SCHEMA)
    assert [each["met"] for each in made["results"]] == [True, None, False]
    assert made["results"][0] | {"versus": ""} == {
        "name": "status_http.throughput",
        "value": 30.0,
        "unit": "reads/s",
        "versus": "",
        "versusValue": 100.0,
        "ratio": 0.3,
        "limit": 0.2,
        "better": "higher",
        "met": True,
    }


def test_a_near_miss_is_not_rounded_into_a_hit() -> None:
    (near,) = latest(result(value=19.99999))["results"]
    assert near["ratio"] == 0.2
    assert near["met"] is False


def test_the_page_says_where_it_comes_from_and_what_was_met() -> None:
    page = render(latest(result(), result(value=1), result(better="lower", limit=None)))
    for said in ("`make bench`", "a machine, 2 cores", "0123456789ab", "2026-11-23T10:00:00.000Z", "4%"):
        assert said in page
    assert "not idle" not in page
    rows = [row for row in page.splitlines() if row.startswith("| status_http")]
    assert rows == [
        "| status_http.throughput | 30 reads/s | 100 reads/s: a constant JSON | 0.3 | ≥ 0.2 | met |",
        "| status_http.throughput | 1 reads/s | 100 reads/s: a constant JSON | 0.01 | ≥ 0.2 | **NOT met** |",
        "| status_http.throughput | 30 reads/s | 100 reads/s: a constant JSON | 0.3 | — | — |",
    ]


def test_the_page_says_what_was_skipped_and_why() -> None:
    made = latest(result(), skipped={"event_streams": "there are none"})
    jsonschema.validate(made, SCHEMA)
    assert "| event_streams | — | — | — | — | skipped: there are none |" in render(made).splitlines()


def test_the_page_says_when_the_machine_was_loaded() -> None:
    assert "The machine was not idle: other programs used up to 55% of its cores" in render(latest(busy=0.55))


def test_a_line_of_the_terminal_shows_the_verdict() -> None:
    missed, lower, free = latest(result(value=1), result(value=1, better="lower", limit=3), result(limit=None))[
        "results"
    ]
    assert line(missed).endswith("≥ 0.2  **NOT met**")
    assert line(lower).endswith("≤ 3  met")
    assert line(free).endswith("—  —")
