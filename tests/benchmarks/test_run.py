from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine, run
from benchmarks.results import Result, Skipped


async def good(_postgres: Any) -> AsyncIterator[Result]:
    yield Result("good.time", 1, "ms", "itself", 1, "lower", 1.5)


async def bad(_postgres: Any) -> AsyncIterator[Result]:
    yield Result("bad.time", 2, "ms", "itself", 1, "lower", 1.5)
    yield Result("bad.speed", 2, "jobs/s", "itself", 1, "higher")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    @contextmanager
    def no_postgres() -> Iterator[None]:
        yield None

    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "LATEST", tmp_path / "results" / "latest.json")
    monkeypatch.setattr(run, "RENDERED", tmp_path / "RESULTS.md")
    monkeypatch.setattr(run, "BENCHMARKS", {"good": good, "bad": bad})
    monkeypatch.setattr(run, "running_postgres", no_postgres)
    monkeypatch.setattr(machine, "busy", lambda: 0.5)
    return tmp_path


def test_every_benchmark_goes_by_the_name_it_is_asked_for() -> None:
    assert list(run.BENCHMARKS) == [
        "submit_http",
        "status_http",
        "accept_to_settle",
        "model_step",
        "image_overhead",
        "edit_overhead",
        "claim_at_depth",
        "hold_race",
        "event_streams",
        "large_body",
        "image_decode",
        "video_encode",
        "video_combine",
        "rife_frame",
        "validation",
        "video_memory",
    ]


@pytest.mark.parametrize("name", ["no_such", "", "claim_at_depth; rm", "--claim_at_depth"])
def test_an_unknown_name_is_refused_before_anything_starts(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "running_postgres", lambda: pytest.fail("PostgreSQL was started"))
    with pytest.raises(SystemExit) as caught:
        run.main(["good", name])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert name in said
    assert "there are good, bad" in said or name.startswith("--")
    assert not list(folder.iterdir())


def test_a_full_run_writes_the_results_and_renders_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([]) == 0
    latest = json.loads((folder / "results" / "latest.json").read_text())
    assert [result["name"] for result in latest["results"]] == ["good.time", "bad.time", "bad.speed"]
    assert latest["busyBefore"] == 0.5
    page = (folder / "RESULTS.md").read_text()
    assert page.count("| met |") == 1
    assert page.count("| **NOT met** |") == 1
    assert "NOT met: bad.time\n" in capsys.readouterr().out


def test_a_run_of_some_leaves_the_page_alone(folder: Path) -> None:
    assert run.main(["good"]) == 0
    assert json.loads((folder / "results" / "latest.json").read_text())["results"][0]["met"] is True
    assert not (folder / "RESULTS.md").exists()


def test_a_run_of_some_can_stand_behind_the_page(folder: Path) -> None:
    assert run.main([]) == 0
    before = (folder / "RESULTS.md").read_text()
    assert run.main(["--append", "good"]) == 0
    page = (folder / "RESULTS.md").read_text()
    assert page.startswith(before)
    apart = page.removeprefix(before)
    assert '`make bench ARGS="--append good"`' in apart
    assert apart.count("| met |") == 1
    assert "bad" not in apart


def test_a_benchmark_without_anything_to_measure_is_told_and_the_others_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def absent(_postgres: Any) -> AsyncIterator[Result]:
        for why in ("there is no such route",):
            raise Skipped(why)
        yield Result("absent.time", 1, "ms", "itself", 1, "lower")

    monkeypatch.setattr(run, "BENCHMARKS", {"absent": absent, "good": good})
    assert run.main(["--strict"]) == 0
    assert "skipped: there is no such route" in capsys.readouterr().out
    latest = json.loads((folder / "results" / "latest.json").read_text())
    assert latest["skipped"] == {"absent": "there is no such route"}
    assert [result["name"] for result in latest["results"]] == ["good.time"]


def test_a_benchmark_that_breaks_ends_the_run_and_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_postgres: Any) -> AsyncIterator[Result]:
        yield Result("broken.time", 1, "ms", "itself", 1, "lower")
        raise RuntimeError("wallets drifted")

    monkeypatch.setattr(run, "BENCHMARKS", {"good": good, "broken": broken})
    with pytest.raises(RuntimeError, match="drifted"):
        run.main([])
    assert not list(folder.iterdir())


def test_strict_fails_when_a_limit_is_missed_and_only_then(folder: Path) -> None:
    assert run.main(["--strict", "good"]) == 0
    assert run.main(["--strict", "bad"]) == 1
    assert (folder / "results" / "latest.json").exists()


def test_the_machine_and_the_commit_are_named() -> None:
    assert "cores" in machine.describe()
    assert "PostgreSQL" in machine.describe()
    assert machine.commit().strip()
