from __future__ import annotations

import asyncio

import pytest

from benchmarks.measuring import Round, at_once, compared, in_turns, percentile


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 50) == 51
    assert percentile(values, 99) == 100
    assert percentile([7.0], 99) == 7
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)


def test_a_round_counts_per_second_and_tells_latencies_in_milliseconds() -> None:
    assert Round.of([0.1, 0.2, 0.3, 0.4], 2.0) == Round(per_second=2.0, p50_ms=300.0, p99_ms=400.0)


async def test_sides_take_turns_and_their_first_turn_does_not_count() -> None:
    turns: list[str] = []

    async def side(name: str) -> Round:
        turns.append(name)
        return Round(len(turns), 1, 1)

    ours, theirs = await in_turns(2, lambda: side("a"), lambda: side("b"))
    assert turns == ["a", "b", "a", "b", "a", "b"]
    assert [each.per_second for each in ours] == [3, 5]
    assert [each.per_second for each in theirs] == [4, 6]


async def test_calls_are_made_at_once_each_after_its_own_last() -> None:
    running, most = [0, 0], [0, 0]

    async def call(number: int) -> None:
        running[number] += 1
        most[number] = max(most[number], running[number])
        await asyncio.sleep(0.01)
        running[number] -= 1

    done = await at_once(0.2, [lambda: call(0), lambda: call(1)])
    assert most == [1, 1]
    assert 10 <= done.p50_ms < 100
    assert 20 < done.per_second <= 200


async def test_a_call_that_fails_ends_the_measurement() -> None:
    async def broken() -> None:
        raise RuntimeError("no money left")

    with pytest.raises(ExceptionGroup) as caught:
        await at_once(5, [broken])
    assert caught.group_contains(RuntimeError, match="no money left")


def test_comparison_takes_medians_and_knows_which_way_is_better() -> None:
    ours = [Round(10, 3, 9), Round(1000, 1, 1000), Round(30, 2, 8)]
    theirs = [Round(100, 1, 2), Round(100, 1, 2), Round(1, 50, 50)]
    throughput, p50, p99 = compared("a", ours, theirs, unit="jobs/s", versus="b", limit=0.4)
    assert (throughput.name, throughput.ratio, throughput.better, throughput.met) == (
        "a.throughput",
        0.3,
        "higher",
        False,
    )
    assert (p50.name, p50.ratio, p50.better, p50.met) == ("a.p50", 2, "lower", None)
    assert (p99.name, p99.value, p99.versus_value) == ("a.p99", 9, 2)
