"""`python -m benchmarks.run [NAME…]`: measure, write `benchmarks/results/latest.json`, render `benchmarks/RESULTS.md`."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import uvloop

from benchmarks import machine
from benchmarks.accept_to_settle import accept_to_settle
from benchmarks.claim_at_depth import claim_at_depth
from benchmarks.combine import video_combine
from benchmarks.edit_overhead import edit_overhead
from benchmarks.encode import video_encode
from benchmarks.event_streams import event_streams
from benchmarks.hold_race import hold_race
from benchmarks.image_overhead import image_overhead
from benchmarks.large_body import large_body
from benchmarks.media import image_decode
from benchmarks.model_step import model_step
from benchmarks.processes import ROOT
from benchmarks.results import Result, Skipped, document, line, render, render_apart
from benchmarks.rife_frame import rife_frame
from benchmarks.services import running_postgres
from benchmarks.status_http import status_http
from benchmarks.submit_http import submit_http
from benchmarks.validation import validation
from benchmarks.video_memory import video_memory
from core.clock import now, rfc3339
from killatamata.embedded_postgres import EmbeddedPostgres

Benchmark: TypeAlias = Callable[[EmbeddedPostgres], AsyncIterator[Result]]

BENCHMARKS: Mapping[str, Benchmark] = {
    each.__name__: each
    for each in (
        submit_http,
        status_http,
        accept_to_settle,
        model_step,
        image_overhead,
        edit_overhead,
        claim_at_depth,
        hold_race,
        event_streams,
        large_body,
        image_decode,
        video_encode,
        video_combine,
        rife_frame,
        validation,
        video_memory,
    )
}

FOLDER = ROOT / "benchmarks"
LATEST = FOLDER / "results" / "latest.json"
RENDERED = FOLDER / "RESULTS.md"


async def measure(names: Sequence[str], postgres: EmbeddedPostgres) -> dict[str, Any]:
    """`latest.json` of the named benchmarks."""
    began, busy = now(), []
    results: list[Result] = []
    skipped: dict[str, str] = {}
    for name in names:
        busy.append(machine.busy())
        print(f"{name} … ({busy[-1]:.0%} of the cores were busy before)", flush=True)
        try:
            async for result in BENCHMARKS[name](postgres):
                results.append(result)
                print(line(result.as_json()), flush=True)
        except Skipped as why:
            skipped[name] = str(why)
            print(f"skipped: {why}", flush=True)
    date = rfc3339(began - timedelta(microseconds=began.microsecond))
    return document(machine.describe(), machine.commit(), date, max(busy), results, skipped)


def main(given: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="Measure, write benchmarks/results/latest.json, and after a run of all render benchmarks/RESULTS.md.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(BENCHMARKS)}")
    parser.add_argument("--append", action="store_true", help="render these few too, behind what RESULTS.md has")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a limit is not met")
    arguments = parser.parse_args(given)
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    # A termination, too, stops what was started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running_postgres() as postgres:
        latest = uvloop.run(measure(arguments.names or list(BENCHMARKS), postgres))
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(latest, indent=2, ensure_ascii=False) + "\n")
    print(f"written: {LATEST.relative_to(ROOT)}")
    if arguments.names and arguments.append:
        RENDERED.write_text(RENDERED.read_text() + render_apart(latest, arguments.names))
    elif not arguments.names:
        RENDERED.write_text(render(latest))
    if arguments.append or not arguments.names:
        print(f"rendered: {RENDERED.relative_to(ROOT)}")
    missed = [result["name"] for result in latest["results"] if result["met"] is False]
    if missed:
        print(f"NOT met: {', '.join(missed)}")
    return 1 if missed and arguments.strict else 0


if __name__ == "__main__":
    raise SystemExit(main())
