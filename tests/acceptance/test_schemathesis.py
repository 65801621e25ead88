"""Schemathesis reads our OpenAPI document and tries to prove it wrong on the real ingress, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import CREDIT, Newcomer

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
