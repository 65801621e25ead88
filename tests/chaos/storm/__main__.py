"""`python -m tests.chaos.storm --seed N`: one storm: a table, out/chaos/report.json, and an end with 1 when wrong."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from tests.chaos.storm.faults import DECK
from tests.chaos.storm.ground import Json
from tests.chaos.storm.size import FULL, SHORT, Size
from tests.chaos.storm.storm import storm
from tests.chaos.storm.table import printed

REPORT = Path("out/chaos/report.json")


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.storm", description="Run a storm.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="three minutes instead of twenty")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--faults", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--only", action="append", choices=DECK, help="these faults alone, in turn; may be given again")
    parser.add_argument("--no-real", action="store_true", help="without the real engine")
    parser.add_argument("--without-fence", action="store_true", help="plant the bug that late workers are believed")
    parser.add_argument(
        "--without-permit", action="store_true", help="plant the bug that no replica watches its permit"
    )
    parser.add_argument("--out", type=Path, default=REPORT, help="where the report goes")
    parser.add_argument("--keep", action="store_true", help="leave the storm's folder behind")
    given = parser.parse_args()
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    if shutil.which("redis-server") is None:
        parser.error("a storm needs redis-server behind the GCS (Debian: apt-get install redis-server)")
    size = SHORT if given.short else FULL
    size = Size(
        given.jobs or size.jobs,
        given.faults or size.faults,
        given.seconds or size.seconds,
        size.flood,
        not given.no_real,
        tuple(given.only or ()),
    )
    weathered = storm(given.seed, size, fence=not given.without_fence, permit=not given.without_permit, keep=given.keep)
    report = asyncio.run(_until_signalled(weathered))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=2, default=str) + "\n")
    print(printed(report))
    return 0 if report["well"] else 1


async def _until_signalled(work: Coroutine[Any, Any, Json]) -> Json:
    task = asyncio.create_task(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())
