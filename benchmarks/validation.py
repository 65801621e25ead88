"""What do validation, effective input and quote cost beside pydantic alone, and their import beside the ingress's?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from statistics import median

from benchmarks.measuring import ROUNDS, scaled
from benchmarks.processes import ROOT, clean_environment
from benchmarks.results import Result
from killatamata import examples
from killatamata.embedded_postgres import EmbeddedPostgres
from pricing.book import PriceBook
from tasks.registry import TASKS

MAX_MICROS = 150
"""The most that validating, completing and pricing the largest public example may take."""

_CALLS = scaled(2000, 10)
_IMPORTS = scaled(5)


async def validation(_postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """The largest public example: validated, completed and priced ÷ `model_validate` of the same body, in one process.

    The former also beside its bound in time. And the time to import tasks and prices ÷ the time to import the ingress, each
    in fresh processes.
    """
    task, given = examples.largest_example()
    book, model = PriceBook.built_in(), TASKS[task].Input
    ours, bare = [], []
    for _ in range(ROUNDS + 1):
        ours.append(_seconds(lambda: examples.priced(task, given, book)))
        bare.append(_seconds(lambda: model.model_validate(given)))
    micros = median(ours[1:]) * 1e6
    yield Result(
        "validation.largest_example",
        micros,
        "µs",
        f"model_validate of the same {task}",
        median(bare[1:]) * 1e6,
        "lower",
        12,
    )
    yield Result("validation.bound", micros, "µs", "the bound", MAX_MICROS, "lower", 1)
    pure, ingress = [], []
    for _ in range(_IMPORTS + 1):
        pure.append(_import_seconds("tasks.registry, pricing.registry"))
        ingress.append(_import_seconds("api.app"))
    yield Result(
        "validation.import", median(pure[1:]) * 1e3, "ms", "import api.app", median(ingress[1:]) * 1e3, "lower", 0.4
    )


def _seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    before = time.process_time()
    for _ in range(_CALLS):
        call()
    return (time.process_time() - before) / _CALLS


def _import_seconds(modules: str) -> float:
    """CPU seconds that importing takes beyond an empty interpreter's start."""
    timed = f"import time; before = time.process_time(); import {modules}; print(time.process_time() - before)"
    command = [sys.executable, "-c", timed]
    return float(subprocess.check_output(command, cwd=ROOT, env=clean_environment(), text=True))
