"""A Ray cluster of several nodes on this machine: GCS with Redis behind it, a head without work, workers with GPUs in name.

A head is started again under the address of the dead one: Ray refuses that while its note of the current cluster names
this address and a raylet of it lives, so the note is removed first. Nothing here needs root.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.chaos.storm.processes import alive, below, send, start, titled, until

GPUS = 8
CPUS = 6
"""Of each worker node, in name: it starts so many processes when it comes up, whether they are needed or not."""
START_SECONDS = 120
DRAINS = "drains"
"""What is answered when a node was asked to drain, and will."""
_STORE_BYTES = 100_000_000
_RAY = [sys.executable, "-m", "tests.chaos.storm.loopback", "start"]
_STARTED = b"Ray runtime started"


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


class Node:
    """One raylet with its workers, below `ray start --block`; on the head also the GCS."""

    def __init__(self, name: str, command: list[str | Path], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, needed: Callable[[], bool] = lambda: True) -> None:
        """Start it; returns when it has joined, has failed, or what it joins is not there any more (`needed`).

        One at a time: two that start at once take the same names.
        """
        self._log.unlink(missing_ok=True)
        self.process = process = start(self._command, self._environment, self._log)
        until(
            lambda: _STARTED in self._log.read_bytes() or process.poll() is not None or not needed(),
            f"the start of {self.name}",
            START_SECONDS,
        )

    def processes(self) -> list[psutil.Process]:
        """Everything of this node that lives."""
        return [] if self.process is None else below(self.process.pid)

    def titled(self, title: str) -> list[psutil.Process]:
        """Its processes whose command line begins so."""
        return [each for each in self.processes() if titled(each).startswith(title) and alive(each)]

    def raylet(self) -> list[psutil.Process]:
        """Its raylet."""
        return [each for each in self.processes() if "raylet/raylet" in titled(each).partition(" ")[0]]

    def kill(self) -> None:
        """Lose the whole machine at once."""
        doomed = self.processes()
        send(doomed, signal.SIGSTOP)
        send([each for old in doomed for each in below(old.pid)], signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)
        psutil.wait_procs(doomed, timeout=10)


class Cluster:
    """Redis, a head and `workers` nodes."""

    def __init__(self, folder: Path, environment: dict[str, str], workers: int = 2) -> None:
        self._folder = folder
        self._redis_port, port = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self._environment = environment | {
            "RAY_external_storage_namespace": "storm",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "60",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            # The driver that starts Serve goes: without this every task would begin with a new process for a finished job.
            "RAY_kill_idle_workers_interval_ms": "0",
        }
        common: list[str | Path] = [
            "--node-ip-address=127.0.0.1",
            f"--object-store-memory={_STORE_BYTES}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--disable-usage-stats",
            "--block",
        ]
        head = [*_RAY, "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", *common]
        redis = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{self._redis_port}"}
        self.head = Node(
            "head", [*head, f"--temp-dir={folder / 'ray'}"], self._environment | redis, folder / "head.log"
        )
        joining = [*_RAY, f"--address={self.address}", f"--num-cpus={CPUS}", f"--num-gpus={GPUS}", *common]
        self.workers = [
            Node(
                f"worker-{number}",
                [*joining, f"--node-name=worker-{number}"],
                self._environment,
                folder / f"worker-{number}.log",
            )
            for number in range(workers)
        ]
        self._redis: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start everything."""
        place = self._folder / "redis"
        place.mkdir()
        options = ["--bind", "127.0.0.1", "--port", str(self._redis_port), "--save", "", "--dir", str(place)]
        self._redis = start(["redis-server", *options], self._environment, self._folder / "redis.log")
        until(lambda: _listens(self._redis_port), "Redis", 10)
        self.start_head()
        for worker in self.workers:
            worker.start()

    def start_head(self) -> None:
        """Start the head, the first one or the next."""
        (self._folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)
        self.head.start()

    def nodes(self) -> Iterator[Node]:
        """The head, then the workers."""
        yield self.head
        yield from self.workers

    def titled(self, title: str) -> list[psutil.Process]:
        """Processes of any node whose command line begins so."""
        return [each for node in self.nodes() for each in node.titled(title)]

    def revive(self) -> list[str]:
        """Start again the nodes that died; returns their names."""
        dead = [node for node in self.nodes() if not self._alive(node)]
        for node in dead:
            node.kill()
            self.start_head() if node is self.head else node.start(lambda: self._alive(self.head))
        return [node.name for node in dead]

    def stop(self) -> None:
        """End all of it."""
        for worker in self.workers:
            worker.kill()
        self.head.kill()
        if self._redis is not None:
            self._redis.terminate()
            self._redis.wait(10)

    def _alive(self, node: Node) -> bool:
        return node.process is not None and node.process.poll() is None and bool(node.raylet())


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        caller.settimeout(0.5)
        return caller.connect_ex(("127.0.0.1", port)) == 0
