"""The quick reference of the public documentation, run by a shell against a real ingress."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

from tests.acceptance.conftest import Newcomer
from tests.conftest import absent

# As printed in the documentation.
SCRIPT = Path(__file__).with_name("quick_reference.sh")
PRINTED = {
    'API_BASE="https://api.killatamata.com"': 'API_BASE="{address}"',
    'API_KEY="YOUR_API_KEY"': 'API_KEY="{key}"',
}


async def test_its_lines_submit_a_job_and_poll_it(address: str, newcomer: Newcomer, whole_fleet: None) -> None:
    for program in ("bash", "curl", "jq"):
        if shutil.which(program) is None:
            absent(f"{program} is not installed")
    caller = await newcomer()
    script = SCRIPT.read_text("utf-8")
    for printed, ours in PRINTED.items():
        assert script.count(printed) == 1
        script = script.replace(printed, ours.format(address=address, key=caller.key))
    # What the jq expression found is the shell's alone: told behind the script's own output.
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script + '\nprintf "\\n%s" "$JOB_ID"'),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed_out, errors = await asyncio.wait_for(shell.communicate(), 60)
    assert (shell.returncode, errors) == (0, b""), printed_out
    submitted, polled, job_id = printed_out.decode().splitlines()
    accepted, job = json.loads(submitted), json.loads(polled)
    assert job_id.startswith("job_")
    assert (accepted["jobId"], job["jobId"]) == (job_id, job_id)
    assert (accepted["status"], job["status"]) == ("queued", "queued")
    assert (accepted["task"], job["task"]) == ("image.generate", "image.generate")
    answer = await caller.http.get("/api/v1/media/jobs")
    assert [each["jobId"] for each in answer.json()["jobs"]] == [job_id], "one job was made"
