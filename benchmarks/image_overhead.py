"""How much longer does one image take as a job than by hand?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from statistics import median

from benchmarks.measuring import scaled
from benchmarks.model_step import in_cluster
from benchmarks.results import Result
from killatamata.embedded_postgres import EmbeddedPostgres

IMAGES = scaled(25, 2)


async def image_overhead(postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """Submit to succeeded of `image.generate`, without its engine's time ÷ a handle call with the same encode and write."""
    ours, theirs = await in_cluster(postgres, "image_overhead", 1, IMAGES)
    versus = "a bare handle call, encoded and written in the caller; 1024x1024 webp"
    for name, limit in (("p50", 2.5), ("p99", None)):
        mine, direct = (median(getattr(each, f"{name}_ms") for each in side) for side in (ours, theirs))
        yield Result(f"image_overhead.{name}", mine, "ms", versus, direct, "lower", limit)
