"""`python -m benchmarks.gpu.video`: what the video engine costs and what its options give, on random weights of full size.

Every row runs in a process of its own, through the engine that production uses; `stock` is diffusers' pipeline with the
same weights and schedule and none of our options, decoding the clip as a whole. On the CPU, `--size tiny` shows that the
code runs; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.images import device_name, ignore_step
from benchmarks.gpu.ltx_architecture import VOCABULARY, DrawnLtxVideo, drawn_parts
from benchmarks.processes import ROOT
from models.base import EngineFault
from models.ltx_options import DISTILLED_SIGMAS, UNGUIDED
from models.ltx_video import LtxVideo, VideoRequest
from models.weights import Weights

OPTION_SETS: Mapping[str, dict[str, Any]] = {
    "plain": {"attention": "sdpa"},
    "flash3": {"attention": "flash3-hub"},
    "compiled": {"attention": "sdpa", "compile": True},
    "fp8": {"attention": "sdpa", "quantization": "fp8"},
    "offload": {"attention": "sdpa", "textEncoder": "offload"},
    "single-gpu": {"quantization": "fp8", "compile": True, "textEncoder": "offload"},
}
STOCK = "stock"
RESULTS = ROOT / "benchmarks" / "results" / "gpu-video.json"

Measured = dict[str, Any]
Clip = tuple[int, int, int]


def through_engine(arguments: argparse.Namespace, options: str, clip: Clip) -> Measured:
    """A row of the engine with an option set."""
    engine = DrawnLtxVideo({**OPTION_SETS[options], "schedule": arguments.schedule})
    began = time.perf_counter()
    engine.load(_weights(arguments), arguments.device)
    loaded = time.perf_counter() - began
    request = _request(arguments, clip)

    def made() -> dict[str, float]:
        drawn = engine.run(request, ignore_step)
        for _ in drawn.chunks:
            pass
        timings: dict[str, float] = drawn.details["timings"]
        return timings

    row = _measured(made, arguments)
    cuda = arguments.device.startswith("cuda")
    return {
        "loadSeconds": round(loaded, 3),
        **row,
        "declaredVramBytes": engine.peak_vram_bytes(request) if cuda else None,
    }


def through_stock(arguments: argparse.Namespace, clip: Clip) -> Measured:
    """The row of diffusers' own pipeline."""
    import torch
    from diffusers import LTX2ConditionPipeline

    from models.runtime import dtype_for

    began = time.perf_counter()
    parts = drawn_parts(_weights(arguments), dtype_for(arguments.device))
    parts.pop("latent_upsampler")
    pipeline = LTX2ConditionPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    loaded = time.perf_counter() - began
    request = _request(arguments, clip)
    distilled = arguments.schedule == "distilled"
    block = min(28, len(pipeline.transformer.transformer_blocks) - 1)
    schedule = (
        {**UNGUIDED, "sigmas": list(DISTILLED_SIGMAS), "num_inference_steps": len(DISTILLED_SIGMAS)}
        if distilled
        else {"num_inference_steps": request.steps, "spatio_temporal_guidance_blocks": [block]}
    )

    def made() -> dict[str, float]:
        marks = [time.perf_counter()]

        def stepped(*_: Any) -> dict[str, Any]:
            marks.append(time.perf_counter())
            return {}

        pipeline(
            prompt=request.prompt,
            width=request.width,
            height=request.height,
            num_frames=request.frames,
            frame_rate=float(request.fps),
            generator=torch.Generator("cpu").manual_seed(request.seed),
            callback_on_step_end=stepped,
            output_type="np",
            **schedule,
        )
        ended = time.perf_counter()
        return {"totalSeconds": ended - marks[0], "stepSeconds": (marks[-1] - marks[1]) / (len(marks) - 2)}

    return {"loadSeconds": round(loaded, 3), **_measured(made, arguments)}


def one(arguments: argparse.Namespace, options: str, clip: Clip) -> Measured:
    """The row; `skipped` says why it cannot run here."""
    row = {"engine": LtxVideo.name, "clip": "x".join(map(str, clip)), "options": options}
    try:
        made = through_stock(arguments, clip) if options == STOCK else through_engine(arguments, options, clip)
    except EngineFault as fault:
        return row | {"skipped": f"{fault.code}: {fault}"}
    return row | made


def main(given: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.video", description=__doc__)
    parser.add_argument("--size", choices=list(VOCABULARY), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--clips", nargs="+", default=["1280x704x121", "1920x1088x121"], help="width x height x frames")
    parser.add_argument("--schedule", choices=["distilled", "full"], default="distilled", help="8 steps, or 30 guided")
    parser.add_argument("--steps", type=int, default=30, help="of the full schedule")
    parser.add_argument("--extreme", action="store_true", help="in two stages")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--options", nargs="+", choices=[STOCK, *OPTION_SETS], default=[STOCK, *OPTION_SETS])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--here", action="store_true", help="run the one row in this process and print it")
    arguments = parser.parse_args(given)
    if arguments.here:
        print(json.dumps(one(arguments, arguments.options[0], _clip(arguments.clips[0]))))
        return 0
    words = list(sys.argv[1:] if given is None else given)
    rows = []
    for clip in arguments.clips:
        for options in arguments.options:
            last = ["--here", "--options", options, "--clips", clip]
            command = [sys.executable, "-m", "benchmarks.gpu.video", *words, *last]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            said = done.stdout.splitlines()[-1:] if done.returncode == 0 else []
            row = json.loads(said[0]) if said else {"clip": clip, "options": options, "failed": done.stderr[-2000:]}
            rows.append(row)
            print(json.dumps(row), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    run = {
        "device": device_name(arguments.device),
        **{name: getattr(arguments, name) for name in ("size", "schedule", "steps", "extreme")},
    }
    arguments.out.write_text(json.dumps({**run, "rows": rows}, indent=2) + "\n")
    return 1 if any("failed" in row for row in rows) else 0


def _measured(made: Callable[[], dict[str, float]], arguments: argparse.Namespace) -> Measured:
    """Medians of the runs after a first one, and peak bytes."""
    import torch

    cuda = arguments.device.startswith("cuda")
    began = time.perf_counter()
    made()
    first = time.perf_counter() - began
    if cuda:
        torch.cuda.reset_peak_memory_stats(arguments.device)
    timings = [made() for _ in range(arguments.runs)]
    medians = {key: round(statistics.median(each[key] for each in timings), 3) for key in timings[0]}
    return {
        "firstRunSeconds": round(first, 3),
        **medians,
        "peakVramBytes": torch.cuda.max_memory_allocated(arguments.device) if cuda else None,
        "peakRamBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _weights(arguments: argparse.Namespace) -> Weights:
    return Weights(f"drawn:{arguments.size}", Path(arguments.device), "none")


def _request(arguments: argparse.Namespace, clip: Clip) -> VideoRequest:
    width, height, frames = clip
    return VideoRequest(
        prompt="a red fox walks through the snow " * 8,
        width=width,
        height=height,
        frames=frames,
        fps=24,
        steps=arguments.steps,
        seed=1,
        extreme_quality=arguments.extreme,
    )


def _clip(text: str) -> Clip:
    width, height, frames = (int(part) for part in text.split("x"))
    return width, height, frames


if __name__ == "__main__":
    raise SystemExit(main())
