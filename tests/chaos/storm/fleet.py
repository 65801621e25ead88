"""The fleet of a storm, as the file that `fleet.apply` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.chaos.storm import engine

IMAGES = 5
"""Replicas of the pool that most jobs go to."""

FIRST, SECOND = "ltx-video", "rife"
"""The pools of the two segments."""

_SERVING = "tests.chaos.storm.serving"


def write(folder: Path, revision: int, *, real: bool) -> Path:
    """Write the fleet's file; another `revision` replaces the replicas of the largest pool. `real`: with a real engine."""
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "weights" / "none").write_text("none")
    applications = [
        {
            "name": "dispatcher",
            "route_prefix": None,
            "import_path": f"{_SERVING}:dispatcher",
            "args": {},
            "deployments": [
                {
                    "name": "Dispatcher",
                    "num_replicas": 2,
                    "max_ongoing_requests": 100,
                    "graceful_shutdown_timeout_s": 5,
                    "health_check_period_s": 2,
                    "health_check_timeout_s": 6,
                    "ray_actor_options": {"num_cpus": 0.1},
                }
            ],
        },
        _pool("qwen-image", IMAGES, folder, {"revision": revision}),
        _pool(FIRST, 1, folder),
        _pool(SECOND, 1, folder),
    ]
    if real:
        edit = _pool("qwen-image-edit", 1, folder, {"referencePixels": 16384, "conditionPixels": 12544})
        edit["args"] |= {
            "engine": "qwen-image-edit",
            "weights": "tiny:qwen-image-edit",
            "canvasCap": 4096,
            "stepCap": 2,
        }
        applications.append(edit)
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump({"proxy_location": "Disabled", "applications": applications}))
    return path


def _pool(name: str, replicas: int, folder: Path, options: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": None,
        "import_path": f"{_SERVING}:model",
        "args": {
            "pool": name,
            "engine": engine.NAME,
            "weights": f"dir:{folder / 'weights'}",
            "standIn": True,
            "options": options or {},
        },
        "deployments": [
            {
                "name": "Replica",
                "num_replicas": replicas,
                "max_ongoing_requests": 1,
                "graceful_shutdown_timeout_s": 10,
                "health_check_period_s": 2,
                "health_check_timeout_s": 5,
                "ray_actor_options": {"num_cpus": 0.1, "num_gpus": 1},
            }
        ],
    }
