"""`python -m benchmarks.gpu.images`: what each option of the image engines costs and gives, on random weights of full size.

Every option set runs in a process of its own, through the engine that production uses. On the CPU, `--size tiny` shows that
the code runs; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.architectures import SHAPES, DrawnQwenImage, DrawnQwenImageEdit
from benchmarks.processes import ROOT
from models.base import EngineFault
from models.qwen_image import ImageRequest, QwenImage
from models.weights import Weights

ENGINES = {"qwen-image": DrawnQwenImage, "qwen-image-edit": DrawnQwenImageEdit}

OPTION_SETS: Mapping[str, dict[str, Any]] = {
    "plain": {"attention": "sdpa"},
    "flash3": {"attention": "flash3-hub"},
    "compiled": {"attention": "sdpa", "compile": True},
    "fp8": {"attention": "sdpa", "quantization": "fp8"},
    "fp8-compiled": {"attention": "sdpa", "quantization": "fp8", "compile": True},
    "offload": {"attention": "sdpa", "textEncoder": "offload"},
    "first-block": {"attention": "sdpa", "cache": {"method": "first-block"}},
    "taylorseer": {"attention": "sdpa", "cache": {"method": "taylorseer"}},
    "no-guidance": {"attention": "sdpa", "trueCfgScale": 1.0},
    "single-gpu": {"quantization": "fp8", "compile": True, "textEncoder": "offload"},
}
"""What `--options` names. A fused LoRA costs nothing at run time: `--steps 8 --options no-guidance` is a distilled model."""

RESULTS = ROOT / "benchmarks" / "results" / "gpu-images.json"


def measured(engine: QwenImage, request: ImageRequest, runs: int, device: str) -> dict[str, Any]:
    """Medians of `runs` runs after a first one: seconds in all, a step, and to decode; peak bytes."""
    import torch

    cuda = device.startswith("cuda")
    began = time.perf_counter()
    engine.run(request, ignore_step)
    first = time.perf_counter() - began
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    timings = [engine.run(request, ignore_step).details["timings"] for _ in range(runs)]
    medians = {key: statistics.median(each[key] for each in timings) for key in timings[0]}
    return {
        "firstRunSeconds": round(first, 3),
        **medians,
        "stepsPerSecond": round(1 / medians["stepSeconds"], 3) if medians["stepSeconds"] else None,
        "peakVramBytes": torch.cuda.max_memory_allocated(device) if cuda else None,
        "declaredVramBytes": engine.peak_vram_bytes(request) if cuda else None,
        "peakRamBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def one(arguments: argparse.Namespace, options: str) -> dict[str, Any]:
    """The option set's row; `skipped` says why it cannot run here."""
    import numpy as np

    row: dict[str, Any] = {"engine": arguments.engine, "options": options}
    small = {"referencePixels": 64 * 64, "conditionPixels": 64 * 64} if arguments.size == "tiny" else {}
    engine = ENGINES[arguments.engine]({**OPTION_SETS[options], **small})
    began = time.perf_counter()
    try:
        engine.load(Weights(f"drawn:{arguments.size}", Path(arguments.device), "none"), arguments.device)
        row["loadSeconds"] = round(time.perf_counter() - began, 3)
        width, height = (int(side) for side in arguments.canvas.split("x"))
        ramp = np.linspace(0, 255, 768 * 1024 * 3).astype(np.uint8).reshape(768, 1024, 3)
        references = (ramp,) * arguments.references if arguments.engine == "qwen-image-edit" else ()
        request = ImageRequest(
            prompt="a red fox in the snow " * 8,
            width=width,
            height=height,
            steps=arguments.steps,
            seed=1,
            references=references,
        )
        return row | measured(engine, request, arguments.runs, arguments.device)
    except EngineFault as fault:
        return row | {"skipped": f"{fault.code}: {fault}"}


def main(given: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.images", description=__doc__)
    parser.add_argument("--engine", choices=list(ENGINES), default="qwen-image")
    parser.add_argument("--size", choices=list(SHAPES), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--canvas", default="1024x1024")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--references", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--options", nargs="+", choices=list(OPTION_SETS), default=list(OPTION_SETS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--here", action="store_true", help="run the one option set in this process and print its row")
    arguments = parser.parse_args(given)
    if arguments.here:
        print(json.dumps(one(arguments, arguments.options[0])))
        return 0
    words = list(sys.argv[1:] if given is None else given)
    rows = []
    for options in arguments.options:
        command = [sys.executable, "-m", "benchmarks.gpu.images", *words, "--here", "--options", options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        last = done.stdout.splitlines()[-1:] if done.returncode == 0 else []
        row = json.loads(last[0]) if last else {"options": options, "failed": done.stderr[-2000:]}
        rows.append(row)
        print(json.dumps(row), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    run = {
        "device": device_name(arguments.device),
        **{name: getattr(arguments, name) for name in ("size", "canvas", "steps")},
    }
    arguments.out.write_text(json.dumps({**run, "rows": rows}, indent=2) + "\n")
    return 1 if any("failed" in row for row in rows) else 0


def device_name(device: str) -> str:
    """What the driver calls `device`."""
    import torch

    return (
        str(torch.cuda.get_device_name(device)) if device.startswith("cuda") and torch.cuda.is_available() else device
    )


def ignore_step(step: int, total: int, preview: bytes | None = None, /) -> None:
    """Go on."""


if __name__ == "__main__":
    raise SystemExit(main())
