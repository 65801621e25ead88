"""A fault counts only when it was one; and what merely stands still is not taken for dead."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.storm import faulty_store
from tests.chaos.storm.cluster import DRAINS, Cluster, Node
from tests.chaos.storm.faults import Faults, pool_of
from tests.chaos.storm.ground import VARIABLE, journal, note
from tests.chaos.storm.processes import send, until

_NODE = 'echo "Ray runtime started"; (exec -a /ray/raylet/raylet sleep 60) & wait'


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))


class _Service:
    """As much of a service as these faults need."""

    def __init__(self, cluster: Cluster, answer: str = "") -> None:
        self.cluster, self._answer = cluster, answer

    def ask(self, *_: str) -> str:
        return self._answer


def _node(name: str, folder: Path) -> Node:
    return Node(name, ["bash", "-c", _NODE], {"PATH": "/usr/bin:/bin"}, folder / f"{name}.log")


def _done(service: Any, *injected: str, meanwhile: Any = lambda: None) -> tuple[Counter[str], Counter[str]]:
    async def run() -> Faults:
        faults = Faults(service, 1)
        for fault in injected:
            faults.inject(fault)
        meanwhile()
        faults.end()
        faults.end()
        return faults

    faults = asyncio.run(run())
    return faults.done, faults.failed


def test_a_wrong_store_or_receiver_counts_only_when_somebody_met_it() -> None:
    assert _done(None, "store slow", "receiver down") == (Counter(), Counter({"store slow": 1, "receiver down": 1}))
    assert faulty_store.mode() is None

    def met() -> None:
        note("store", what="slow", call="read")
        note("receiver", what="broken")

    done, failed = _done(None, "store slow", "receiver down", meanwhile=met)
    assert (done, failed) == (Counter({"store slow": 1}), Counter({"receiver down": 1}))


def test_a_head_that_stands_still_is_no_dead_one(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, {}, workers=0)
    cluster.head = head = _node("head", tmp_path)
    head.start()
    try:
        until(head.raylet, "the raylet")

        async def stopped() -> None:
            faults = Faults(_Service(cluster), 1)  # type: ignore[arg-type]
            assert faults.inject("head stop")
            found = head.processes()
            until(lambda: all(each.status() == psutil.STATUS_STOPPED for each in found), "all of it stopped")
            assert cluster.revive() == []
            faults.end()
            until(lambda: all(each.status() != psutil.STATUS_STOPPED for each in found), "all of it going on")

        asyncio.run(stopped())
        raylets = head.raylet()
        send(raylets, signal.SIGKILL)
        until(lambda: not head.raylet(), "the end of the raylet")
        assert cluster.revive() == ["head"]
    finally:
        head.kill()
    (noted,) = journal("fault")
    assert (noted["what"], noted["how"]) == ("head", "stop")
    assert 3 <= noted["seconds"] <= 14
    assert noted["at"] < time.time()


def test_a_head_that_is_dead_already_is_not_killed_again(tmp_path: Path) -> None:
    service = _Service(Cluster(tmp_path, {}, workers=0))
    failed = Counter({"head kill": 1, "head stop": 1})
    assert _done(service, "head kill", "head stop") == (Counter(), failed)
    assert journal("fault") == []


@pytest.mark.parametrize(("answer", "done"), [(f"a warning\n{DRAINS}", 1), ("refused: not idle", 0)])
def test_a_node_that_refuses_to_drain_is_no_fault(tmp_path: Path, answer: str, done: int) -> None:
    cluster = Cluster(tmp_path, {}, workers=0)
    cluster.workers = [_node(f"worker-{number}", tmp_path) for number in range(2)]
    for worker in cluster.workers:
        worker.start()
    try:
        for worker in cluster.workers:
            until(worker.raylet, "the raylet")
        assert _done(_Service(cluster, answer), "node drain")[0]["node drain"] == done
        assert len(journal("fault")) == done
    finally:
        for worker in cluster.workers:
            worker.kill()


def test_the_pool_of_a_replica_is_in_its_title() -> None:
    assert pool_of("ray::ServeReplica:qwen-image-edit:Replica") == "qwen-image-edit"
    assert pool_of("") == ""
