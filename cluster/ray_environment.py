"""The environment of a private Ray. Ray reads it when it is first imported, so this module imports no Ray."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from core.settings import Settings


def environment(settings: Settings) -> dict[str, str]:
    """The environment that every process of the cluster inherits."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token(settings.root)),
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_num_prestart_python_workers": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_worker_prestart": "0",
    }


def _token(root: Path) -> Path:
    path = root / "ray-token"
    if not path.exists():
        # Whole or not at all: an empty token would keep every later start from its own cluster.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        draft.replace(path)
    return path
