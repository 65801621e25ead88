"""What a benchmark says: a ratio of two things measured in one run, its limit, and whether that was met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

COMMAND = "make bench"

Better = Literal["lower", "higher"]


class Skipped(Exception):
    """A benchmark has nothing to measure here; the message says why."""


@dataclass(frozen=True)
class Result:
    """`value` was measured beside `versus_value`, both in `unit`; `limit` bounds their ratio from the side `better` means.

    Raises:
        ValueError: a value that is not a positive number, of which no ratio can be made.
    """

    name: str
    value: float
    unit: str
    versus: str
    versus_value: float
    better: Better
    limit: float | None = None

    def __post_init__(self) -> None:
        for measured in (self.value, self.versus_value):
            if not (math.isfinite(measured) and measured > 0):
                raise ValueError(f"{self.name} was measured as {measured}, which is no positive number")

    @property
    def ratio(self) -> float:
        """`value` ÷ `versus_value`."""
        return self.value / self.versus_value

    @property
    def met(self) -> bool | None:
        """Whether the ratio is on the right side of the limit; None without one."""
        if self.limit is None:
            return None
        return self.ratio <= self.limit if self.better == "lower" else self.ratio >= self.limit

    def as_json(self) -> dict[str, Any]:
        """One of `results` in `latest.json`."""
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "versus": self.versus,
            "versusValue": _rounded(self.versus_value),
            "ratio": _rounded(self.ratio),
            "limit": self.limit,
            "better": self.better,
            "met": self.met,
        }


def document(
    machine: str, commit: str, date: str, busy: float, results: Sequence[Result], skipped: Mapping[str, str]
) -> dict[str, Any]:
    """`latest.json`. `busy` is the largest share of all cores (0…1) that other programs used before a benchmark began.

    `skipped` says why a benchmark was.
    """
    return {
        "machine": machine,
        "commit": commit,
        "date": date,
        "busyBefore": round(busy, 2),
        "results": [result.as_json() for result in results],
        "skipped": dict(skipped),
    }


def render(latest: Mapping[str, Any]) -> str:
    """`latest.json` of all benchmarks as Markdown."""
    head = [
        "# Benchmarks",
        "",
        f"Made by `{COMMAND}`; do not edit. Every result is a ratio of two things measured in turn in one run, so that it",
        "says something on other machines too; the absolute numbers are this machine's.",
    ]
    return "\n".join(head) + "\n" + _run(latest)


def render_apart(latest: Mapping[str, Any], names: Sequence[str]) -> str:
    """`latest.json` of the benchmarks `names`, run by themselves, as a section to stand behind that."""
    words = " ".join(names)
    return f'\n## Measured apart\n\n`{COMMAND} ARGS="--append {words}"`\n' + _run(latest)


def _run(latest: Mapping[str, Any]) -> str:
    busy = latest["busyBefore"]
    loaded = "The machine was not idle: other" if busy > 0.1 else "Other"
    lines = [
        "",
        f"- Machine: {latest['machine']}",
        f"- Date: {latest['date']}",
        f"- Commit: {latest['commit']}",
        f"- {loaded} programs used up to {busy:.0%} of its cores just before a benchmark began.",
        "",
        "| result | value | versus | ratio | limit | |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(_row, latest["results"]),
        *(f"| {name} | — | — | — | — | skipped: {why} |" for name, why in latest["skipped"].items()),
    ]
    return "\n".join(lines) + "\n"


def line(result: Mapping[str, Any]) -> str:
    """One result of `latest.json` in one line of a terminal."""
    return (
        f"{result['name']:<32} {_shown(result['value'], result['unit']):>12}  ratio {result['ratio']:<8}"
        f" {_limit(result):>8}  {_verdict(result)}"
    )


def _row(result: Mapping[str, Any]) -> str:
    unit = result["unit"]
    return (
        f"| {result['name']} | {_shown(result['value'], unit)} | {_shown(result['versusValue'], unit)}: {result['versus']}"
        f" | {result['ratio']} | {_limit(result)} | {_verdict(result)} |"
    )


def _shown(value: float, unit: str) -> str:
    return f"{value:g} {unit}"


def _limit(result: Mapping[str, Any]) -> str:
    if result["limit"] is None:
        return "—"
    return f"{'≤' if result['better'] == 'lower' else '≥'} {result['limit']:g}"


def _verdict(result: Mapping[str, Any]) -> str:
    return {True: "met", False: "**NOT met**", None: "—"}[result["met"]]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
