"""How much longer does one edit take as a job than by hand, engine included?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from statistics import median

from benchmarks.measuring import scaled
from benchmarks.model_step import in_cluster
from benchmarks.results import Result
from killatamata.embedded_postgres import EmbeddedPostgres

EDITS = scaled(5)


async def edit_overhead(postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """Submit to succeeded of `image.edit`, tiny weights, 512x512 in 30 steps ÷ engine and codecs called in one process."""
    ours, theirs = await in_cluster(postgres, "edit_overhead", 1, EDITS)
    versus = "decode, engine, encode and write in one process; one thread of torch on both sides"
    mine, direct = (median(each.p50_ms for each in side) for side in (ours, theirs))
    yield Result("edit_overhead.p50", mine, "ms", versus, direct, "lower", 1.3)
