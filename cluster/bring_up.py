"""Bringing up Ray on this machine: a private cluster of its own, never a stranger's."""

from __future__ import annotations

import logging

import ray
from ray import serve

from core.settings import Settings

_OBJECT_STORE_BYTES = 256 * 1024 * 1024
_LOGICAL_CPUS = 16
"""Ray's CPUs are only counters here: replicas and tasks declare small shares of them."""


def start(settings: Settings) -> None:
    """Start a private Ray and its Serve control plane, with sockets in the short runtime folder and no HTTP proxy.

    The process must already have the environment of `cluster.ray_environment`, set before Ray was first imported.
    """
    ray.init(
        address="local",
        namespace="killatamata",
        num_cpus=_LOGICAL_CPUS,
        object_store_memory=_OBJECT_STORE_BYTES,
        _memory=round(settings.fleet_memory_gib * 2**30),
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(settings.runtime_dir / "ray"),
    )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled")


def stop() -> None:
    """End Ray and with it every replica at once; drain first."""
    ray.shutdown()
