"""`python -m tests.chaos.storm.loopback start …`: the `ray` command with every address on the loopback.

Ray puts the host's own address in the place of 127.0.0.1 where clusters may have several nodes.
"""

from __future__ import annotations

from typing import Any

from ray._private import services
from ray.scripts import scripts


def _loopback(*_: object, **__: object) -> str:
    return "127.0.0.1"


if __name__ == "__main__":
    setattr(services, "get_node_ip_address", _loopback)  # noqa: B010 (a module's function is replaced)
    command: Any = scripts.main
    command()
