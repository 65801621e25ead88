"""The private Ray of the tests is the one that a stack brings up."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import ray
from ray import serve

from core.settings import Settings


def test_ray_is_private_and_has_no_door_to_the_network(ray_cluster: None, in_cluster: None) -> None:
    folder = Settings().runtime_dir
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    nodes: Any = ray.nodes  # untyped in Ray
    session = Path(nodes()[0]["ObjectStoreSocketName"])
    assert folder in session.parents
    assert len(os.fsencode(session)) <= 107
    assert ray.get_runtime_context().namespace == "killatamata"
    assert {node["NodeManagerAddress"] for node in nodes()} == {"127.0.0.1"}
    assert serve.status().proxies == {}
