"""The Serve application of one pool, built from the `args` of a fleet file."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from deployments.replica import Replica, ReplicaArgs


def model(args: dict[str, Any]) -> Application:
    """One autoscaling replica group around an engine; everything else about it stands in the fleet file.

    Raises:
        ValidationError: `args` are not those of `ReplicaArgs`.
    """
    deployment: Any = serve.deployment(Replica, name="Replica")
    application: Application = deployment.bind(ReplicaArgs.model_validate(args))
    return application
