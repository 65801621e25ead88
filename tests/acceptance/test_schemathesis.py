"""Schemathesis reads our OpenAPI document and tries to prove it wrong on the real ingress, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import CREDIT, SECRET, Newcomer

ROOT = Path(__file__).parents[2]
EXAMPLES = "15"
CONFIG = """
[auth.openapi.bearer]
bearer = "{key}"
[auth.openapi.apiKey]
api_key = "{key}"

# No string of ours may hold NUL, which JSON Schema cannot say in passing.
[generation]
allow-x00 = false

# Rules across fields (a clip of 249 or 257 frames, a canvas of at most 4 MP) are told by 422, not by the schema.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "402", "403", "404", "409", "422", "429", "503"]

# It would revoke the key that it works with.
[[operations]]
include-operation-id = "revoke_key"
phases.fuzzing.enabled = false
phases.stateful.enabled = false
"""


@pytest.fixture
def address(database_url: str, tmp_path: Path) -> Iterator[str]:
    """The base URL of an ingress that runs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        settings = {
            "PYTHONPATH": str(ROOT),
            "KILLATAMATA_DATA_DIR": str(tmp_path / "data"),
            "KILLATAMATA_DATABASE_URL": database_url,
            "KILLATAMATA_SECRET_KEY": SECRET,
            "KILLATAMATA_PUBLIC_URL": base,
            "KILLATAMATA_LOG_LEVEL": "warning",
            "KILLATAMATA_EVENT_STREAMS_PER_KEY": "1000",
            "KILLATAMATA_READS_PER_MINUTE": "0",
            "KILLATAMATA_WRITES_PER_MINUTE": "0",
            "KILLATAMATA_REQUESTS_PER_MINUTE_WITHOUT_KEY": "0",
        }
        command = [sys.executable, "-m", "api", "--fd", str(listening.fileno())]
        environment = {**os.environ, **settings}
        with subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listening.fileno()]) as process:
            _await(base, process)
            yield base
            process.terminate()


def _await(base: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the ingress ended"
        try:
            httpx.get(f"{base}/health", timeout=5)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the ingress does not answer")


@pytest.mark.timeout(900)
async def test_it_finds_nothing(address: str, newcomer: Newcomer, whole_fleet: None, tmp_path: Path) -> None:
    caller = await newcomer(CREDIT * 100_000)
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG.format(key=caller.key))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{address}/openapi.json"]
    options = ["--max-examples", EXAMPLES, "--seed", "1", "--continue-on-failure", "--no-color"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in done.stdout
