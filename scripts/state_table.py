"""Write `jobs/sql/states.sql` and `docs/states.md` from the table in `jobs/states.py`, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from jobs.states import MACHINES, NOTHING, REFUSED, Machine, as_sql

ROOT = Path(__file__).resolve().parent.parent

_TITLES = {
    "job": "A job (`job.state`)",
    "queue": "Its place in the queue (`queue.state`)",
    "attempt": "Each of its attempts (`attempt.ended_at`)",
}
_INTRODUCTION = f"""\
# States

Every way that a job, its place in the queue and its attempts can take. `jobs/states.py` is the one table; this page and the
triggers in `jobs/sql/states.sql` are written from it (`python scripts/state_table.py`), and the database refuses any other
way with SQLSTATE `{REFUSED}`, whoever asks for it. *{NOTHING}* is a row that is not there yet, or not any more.
"""
_PROOF = """
## How it is checked

`tests/jobs/model.py` is the whole service as a few dictionaries, and `tests/jobs/machine.py` lets hypothesis try lines of
operations on a real PostgreSQL: submit (also twice under one key), claim by several sessions, beat, silence and end of
sessions, hand-backs, segments of two pools, settlements by workers of now and of long ago, cancels, both deadlines, pauses,
top-ups and chargebacks. After each one, answers, states, fences, attempts, events, holds and wallets must be the model's; in
the end every job must still come to its own end. `tests/jobs/test_interleavings.py` runs each two operations at once, held
up at each row that they lock, and accepts only what one of the two orders would have given.
`tests/jobs/test_mutations.py` plants bugs in the SQL, such as a fence that is not checked or locks taken in another order,
and demands that these two find them. `make model` (`KILLATAMATA_MODEL_EXAMPLES=500`) runs
longer, each time with other operations.
"""


def page() -> str:
    """`docs/states.md`."""
    return "".join((_INTRODUCTION, *(part for machine in MACHINES for part in _section(machine)), _PROOF))


def _section(machine: Machine) -> Iterator[str]:
    yield f"\n## {_TITLES[machine.table]}\n\n| from | to | by |\n| --- | --- | --- |\n"
    for (before, after), by in machine.ways.items():
        yield f"| {before} | {after} | {by} |\n"


def main() -> None:
    """Write both files, or with `--check` name the stale ones and exit with 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not up to date")
    check = parser.parse_args().check
    wanted = {"jobs/sql/states.sql": as_sql(), "docs/states.md": page()}
    stale = [
        name for name, text in wanted.items() if not (ROOT / name).exists() or (ROOT / name).read_text("utf-8") != text
    ]
    if check and stale:
        sys.exit(f"{', '.join(stale)} stale: run python scripts/state_table.py and commit what it writes")
    for name in stale:
        (ROOT / name).write_text(wanted[name], "utf-8")
    sys.stdout.write(f"state table: {'all up to date' if not stale else f'{len(stale)} written'}\n")


if __name__ == "__main__":
    main()
