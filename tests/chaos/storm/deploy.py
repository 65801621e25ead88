"""`python -m tests.chaos.storm.deploy apply FLEET | drain NODE SECONDS`: one question to the cluster by a fresh client.

A client that lives through the death of a head may hang for ever, so none lives longer than one question.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from typing import Any

import ray
from ray import serve

from cluster import fleet
from core.database import Database
from core.settings import Settings
from tests.chaos.storm import disguise
from tests.chaos.storm.cluster import DRAINS

DRAIN_SECONDS = 8.0
_PREEMPTION = 2


async def apply(path: str) -> None:
    """Bring the cluster to what the fleet's file says."""
    url = Settings().database_url
    assert url is not None
    database = Database(url, size=2)
    await database.open()
    serve.start(proxy_location="Disabled")
    await fleet.apply(fleet.load(path), database, timeout_s=240)
    await database.close()


def drain(address: str, name: str, seconds: float) -> None:
    """Ask Ray to take everything off the node of that name within `seconds`; prints `DRAINS`, or why it does not."""
    nodes: Any = ray.nodes
    (node,) = [each for each in nodes() if each["Alive"] and each["NodeName"] == name]
    raylets: Any = importlib.import_module("ray._raylet")
    client = raylets.GcsClient(address=address)
    until = int((time.time() + seconds) * 1000)
    accepted, why = client.drain_node(node["NodeID"], _PREEMPTION, "the storm wants it", until)
    print(DRAINS if accepted else f"refused: {why}")


def main() -> None:
    """The command."""
    address, what, *rest = sys.argv[1:]
    disguise.wear()
    setattr(fleet, "DRAIN_SECONDS", DRAIN_SECONDS)  # noqa: B010
    ray.init(address=address, namespace="killatamata", log_to_driver=False, _node_ip_address="127.0.0.1")
    if what == "apply":
        asyncio.run(apply(rest[0]))
    else:
        drain(address, rest[0], float(rest[1]))


if __name__ == "__main__":
    main()
