from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging
from core.log import configure, logger
configure({level!r}, json={as_json})
log = logger("jobs.store")
log.debug("unseen")
log.info("job_claimed", job="job_1")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broke")
logging.getLogger("library").info("unseen too")
logging.getLogger("library").warning("seen")
"""


def run(level: str = "info", as_json: str = "None") -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(level=level, as_json=as_json)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)


def test_lines_are_json_when_stderr_is_no_terminal_and_stdout_stays_free() -> None:
    finished = run()
    lines = finished.stderr.splitlines()
    claimed, broke = json.loads(lines[0]), json.loads(lines[1])
    assert (claimed["event"], claimed["module"], claimed["job"]) == ("job_claimed", "jobs.store", "job_1")
    assert claimed["timestamp"].endswith("Z")
    assert "ZeroDivisionError" in broke["exception"]
    assert lines[2:] == ["WARNING library: seen"]
    assert finished.stdout == ""


def test_the_level_is_obeyed() -> None:
    assert [json.loads(line)["event"] for line in run("error").stderr.splitlines()] == ["broke"]


def test_lines_for_people_hold_no_escape_codes_when_redirected() -> None:
    shown = run(as_json="False").stderr
    assert "job_claimed" in shown
    assert "\x1b" not in shown
    assert not shown.startswith("{")
