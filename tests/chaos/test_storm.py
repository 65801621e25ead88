"""A storm of three minutes over a cluster of three nodes; `make chaos` runs the long one."""

from __future__ import annotations

import json

import pytest

from tests.chaos.storm.__main__ import SHORT
from tests.chaos.storm.faults import KILLS, drawn
from tests.chaos.storm.plan import drawn as planned
from tests.chaos.storm.storm import storm


@pytest.mark.stack
@pytest.mark.timeout(900)
async def test_a_short_storm_loses_nothing() -> None:
    report = await storm(3, SHORT)
    assert report["wrong"] == [], json.dumps(report, indent=2, default=str)
    assert report["jobs"]["accepted"] > SHORT.jobs
    assert report["jobs"]["succeeded"] > 0.6 * SHORT.jobs
    assert {"replica kill", "dispatcher kill", "ingress kill", "head kill", "node kill"} <= set(report["faults"])


def test_the_same_seed_is_the_same_storm() -> None:
    def bodies(seed: int) -> list[object]:
        return [(wish.at, wish.body, wish.cancels) for wish in planned(seed, 50, 10.0, 4, real=True)]

    assert bodies(5) == bodies(5) != bodies(6)
    assert drawn(5, 60) == drawn(5, 60) != drawn(6, 60)


def test_a_long_storm_is_as_hard_as_promised() -> None:
    deck = drawn(1, 214)
    assert len(deck) >= 200
    assert sum(deck.count(kind) for kind in KILLS) >= 140
    assert deck.count("head kill") >= 3
