"""How much memory does a long film take outside the GPU?"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.measuring import scaled
from benchmarks.processes import from_process
from benchmarks.results import Result
from killatamata.embedded_postgres import EmbeddedPostgres

FRAMES = scaled(601, 17)
"""20 s at 30 a second."""
_LIMIT_GIB = 1.5


async def video_memory(_: EmbeddedPostgres) -> AsyncIterator[Result]:
    """Peak memory of both segments together, models aside, of 20 s at 1920x1088, 30 to 60 a second ÷ 1.5 GiB."""
    order: dict[str, Any] = {"frames": FRAMES, "stored": None}
    with tempfile.TemporaryDirectory(prefix="kt-video-") as folder:
        kept = await from_process("benchmarks.video_side", {**order, "segment": "generate", "folder": folder})
        made = {**order, "segment": "deliver", "folder": folder, "stored": kept["stored"]}
        delivered = await from_process("benchmarks.video_side", made)
    for name, peak in (
        ("generate", kept["peak"]),
        ("deliver", delivered["peak"]),
        ("together", kept["peak"] + delivered["peak"]),
    ):
        limit = 1.0 if name == "together" else None
        yield Result(f"video_memory.{name}", peak / 2**30, "GiB", "1.5 GiB", _LIMIT_GIB, "lower", limit)
    for name, side in (("generate", kept), ("deliver", delivered)):
        seconds = FRAMES / 30
        yield Result(f"video_memory.{name}_time", side["seconds"], "s", "the film's length", seconds, "lower")
