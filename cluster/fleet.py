"""Fleets: which pools run, on what. A fleet file is a Serve config, applied declaratively.

`serve.run` would replace every replica even when nothing changed; the config API changes in place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.serve._private.common import ReplicaState
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, DeploymentSchema, ServeDeploySchema

from core.database import Database
from core.errors import OperatorError
from core.log import logger
from core.settings import PREFIX
from deployments.replica import ReplicaArgs
from jobs import leases, pools
from models.registry import ENGINES, engine

log = logger(__name__)

_SHIPPED = files("deployments") / "fleets"
DISPATCHER = "dispatcher"
REPLICA = "Replica"
CPU = "cpu"
"""The pool of segments that run no model; every fleet has it."""
DRAIN_SECONDS = 60.0
_LOOK_SECONDS = 0.2


class BadFleet(OperatorError):
    """The fleet file is missing or wrong."""


class FleetFailed(OperatorError):
    """An application of the fleet did not come up."""


@dataclass(frozen=True)
class Fleet:
    """A checked fleet file."""

    name: str
    schema: ServeDeploySchema
    pools: frozenset[str]
    max_queue_seconds: Mapping[str, float | None]


def load(name: str) -> Fleet:
    """The fleet of that name in deployments/fleets, or in the file of that path.

    Raises:
        BadFleet: no such file, or it is no Serve config with pools.
    """
    path = Path(name)
    try:
        text = (path if path.suffix else _SHIPPED / f"{name}.yaml").read_text()
    except (OSError, ValueError) as error:
        shipped = ", ".join(sorted(entry.name.removesuffix(".yaml") for entry in _SHIPPED.iterdir()))
        raise BadFleet(f"there is no fleet {name!r} ({error}); use {shipped}, or the path of a .yaml file") from None
    try:
        schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
        found = {
            app.name: ReplicaArgs.model_validate(app.args) for app in schema.applications if app.name != DISPATCHER
        }
    except (yaml.YAMLError, ValueError) as error:
        raise BadFleet(f"fleet {name!r} is wrong: {error}") from None
    for application, args in found.items():
        if args.pool != application:
            raise BadFleet(f"fleet {name!r}: application {application!r} must be named after its pool {args.pool!r}")
        if args.engine not in ENGINES:
            raise BadFleet(
                f"fleet {name!r}: pool {args.pool!r} wants engine {args.engine!r}; use one of {', '.join(sorted(ENGINES))}"
            )
        _check_engine(name, schema, args)
    if DISPATCHER not in {app.name for app in schema.applications}:
        raise BadFleet(f"fleet {name!r} has no application {DISPATCHER!r}")
    return Fleet(name, schema, frozenset(found), {pool: args.max_queue_seconds for pool, args in found.items()})


def _check_engine(name: str, schema: ServeDeploySchema, args: ReplicaArgs) -> None:
    try:
        needed = engine(args.engine, args.options).peak_ram_bytes
    except ValueError as error:
        raise BadFleet(f"fleet {name!r}: the options of pool {args.pool!r} are wrong: {error}") from None
    for deployment in next(app for app in schema.applications if app.name == args.pool).deployments:
        memory = _declared_memory(deployment)
        if 0 < memory < needed:
            raise BadFleet(
                f"fleet {name!r}: pool {args.pool!r} declares {memory / 1e9:g} GB of memory; "
                f"{args.engine} takes {needed / 1e9:g} GB without its weights"
            )


def _declared_memory(deployment: DeploymentSchema) -> float:
    """Bytes that a replica declares; 0 when it says nothing."""
    return getattr(deployment.ray_actor_options, "memory", None) or 0.0


async def apply(fleet: Fleet, database: Database, *, timeout_s: float = 120) -> None:
    """Bring the cluster to what the fleet says: the dispatcher drains first, unchanged applications stay as they are.

    Raises:
        BadFleet: a replica declares more memory than the cluster has for all.
        FleetFailed: an application did not come up in `timeout_s` seconds; dispatchers that run claim again.
    """
    async with asyncio.timeout(10):
        resources: dict[str, float] = await asyncio.to_thread(ray.cluster_resources)
    granted = resources.get("memory", 0.0)
    for application in fleet.schema.applications:
        for deployment in application.deployments:
            declared = _declared_memory(deployment)
            if declared > granted:
                raise BadFleet(
                    f"a replica of {application.name!r} declares {declared / 2**30:.1f} GiB of memory and all together "
                    f"are granted {granted / 2**30:.1f}; set {PREFIX}FLEET_MEMORY_GIB to what this machine can give"
                )
    if DISPATCHER in await status():
        await leases.drain(database, DRAIN_SECONDS)
    try:
        await pools.declare(database, fleet.pools | {CPU}, fleet.max_queue_seconds)
        await _deploy(fleet, timeout_s)
    finally:
        await leases.resume(database)


async def _deploy(fleet: Fleet, timeout_s: float) -> None:
    names = {app.name for app in fleet.schema.applications}
    found: dict[str, ApplicationStatus] = {}
    client: Any = _get_global_client()
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.to_thread(client.deploy_apps, fleet.schema)
            while not all(found.get(name) == ApplicationStatus.RUNNING for name in names):
                await asyncio.sleep(_LOOK_SECONDS)
                found = await status()
                for name in names:
                    if found.get(name) == ApplicationStatus.DEPLOY_FAILED:
                        raise FleetFailed(
                            f"application {name!r} failed to deploy; its log is in the Ray session folder"
                        )
    except TimeoutError:
        seen = ", ".join(f"{name} is {found[name].value if name in found else 'missing'}" for name in sorted(names))
        raise FleetFailed(f"the fleet did not come up within {timeout_s:g} s: {seen}") from None


async def status() -> dict[str, ApplicationStatus]:
    """Every application's status; a control call that hangs is given up after ten seconds."""
    async with asyncio.timeout(10):
        found = await asyncio.to_thread(serve.status)
    return {name: application.status for name, application in found.applications.items()}


async def slots() -> dict[str, int]:
    """Running replicas of every pool of models."""
    async with asyncio.timeout(5):
        found = await asyncio.to_thread(serve.status)
    return {
        name: application.deployments[REPLICA].replica_states.get(ReplicaState.RUNNING, 0)
        for name, application in found.applications.items()
        if REPLICA in application.deployments
    }
