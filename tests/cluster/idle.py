"""Serve applications that do nothing, in the places of a dispatcher and of a model."""

from __future__ import annotations

import os
from typing import Any

from ray import serve
from ray.serve import Application


class Idle:
    """Tells which process it is."""

    def pid(self) -> int:
        """The process id."""
        return os.getpid()


def dispatcher(args: dict[str, Any]) -> Application:
    """In the place of cluster.dispatcher:app."""
    deployment: Any = serve.deployment(Idle, name="Dispatcher")
    application: Application = deployment.bind()
    return application


def model(args: dict[str, Any]) -> Application:
    """In the place of deployments.app:model."""
    deployment: Any = serve.deployment(Idle, name="Replica")
    application: Application = deployment.bind()
    return application


def broken(args: dict[str, Any]) -> Application:
    """An application that cannot be built."""
    raise RuntimeError("this fleet's author made a mistake")
