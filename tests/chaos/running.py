"""A stack in a process of its own, as a user starts it, and ways to trouble it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

FLEET = Path(__file__).parent / "fleet.yaml"
FINAL = {"succeeded", "failed", "cancelled"}
REPLICA = "ray::ServeReplica:qwen-image:Replica"
DISPATCHER = "ray::ServeReplica:dispatcher:Dispatcher"

Json = dict[str, Any]


def until(check: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """The first true answer of `check`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = check()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


class RunningStack:
    """`killatamata up` on a data folder."""

    def __init__(self, folder: Path, fleet: str = str(FLEET)) -> None:
        self.folder = folder
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("KILLATAMATA_", "RAY_"))},
            "KILLATAMATA_DATA_DIR": str(folder / "data"),
            "KILLATAMATA_FLEET": fleet,
            "KILLATAMATA_EGRESS_ALLOW": "127.0.0.0/8",
        }
        self.up()

    def up(self) -> None:
        """Start it and wait until jobs are accepted."""
        ready_file = self.folder / "ready.json"
        ready_file.unlink(missing_ok=True)
        began = time.monotonic()
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.command, "up", "--ready-file", ready_file],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: ready_file.exists() or self.process.poll() is not None, "the ready file", 120)
        assert self.process.poll() is None, (self.folder / "up.log").read_text()
        self.seconds_to_ready = time.monotonic() - began
        ready = json.loads(ready_file.read_text())
        assert ready["pid"] == self.process.pid
        self.base_url, self.key = ready["baseUrl"], ready["apiKey"]

    def end(self, how: signal.Signals = signal.SIGINT, seconds: float = 60) -> int:
        """Send a signal to `up` and wait for its end; returns its exit code."""
        self.process.send_signal(how)
        return self.process.wait(seconds)

    @property
    def command(self) -> str:
        return str(Path(sys.executable).with_name("killatamata"))

    def run(self, *words: str) -> str:
        """The output of a `killatamata` command on this data folder."""
        done = subprocess.run(
            [self.command, *words], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def account(self, credit: str) -> str:
        """The key of a new account with that credit in dollars."""
        return self.run("key", "create", self.run("account", "create", "test", "--credit", credit))

    def call(self, method: str, path: str, *, key: str | None = None, **request: Any) -> httpx.Response:
        """One request to the API, as this account."""
        headers = {"Authorization": f"Bearer {key or self.key}", **request.pop("headers", {})}
        return httpx.request(
            method, f"{self.base_url}/api/v1{path}", headers=headers, timeout=30, trust_env=False, **request
        )

    def submit(
        self, *, key: str | None = None, idempotency: str | None = None, webhook: str | None = None, **given: Any
    ) -> httpx.Response:
        """POST an image of 512 by 512 pixels, or what `given` says."""
        body: Json = {"task": "image.generate", "input": {"prompt": "a red fox", "width": 512, "height": 512, **given}}
        if webhook is not None:
            body["webhookUrl"] = webhook
        headers = {"X-Idempotency-Key": idempotency} if idempotency else {}
        return self.call("POST", "/media/jobs", key=key, json=body, headers=headers)

    def accepted(self, **given: Any) -> str:
        """The id of a job that was accepted."""
        answer = self.submit(**given)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["jobId"])

    def job(self, job_id: str, *, key: str | None = None) -> Json:
        """The job with its details."""
        answer = self.call("GET", "/media/jobs", key=key, params={"jobId": job_id, "includeDetails": "1"})
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def until_running(self, job_id: str) -> Json:
        """The job when its engine works."""

        def engaged() -> Json | None:
            job = self.job(job_id)
            assert job["status"] not in FINAL, job
            return job if job["progress"] > 0 else None

        found: Json = until(engaged, "the job's engine at work")
        return found

    def finished(self, job_id: str, *, key: str | None = None, seconds: float = 120) -> Json:
        """The job when it has ended."""

        def ended() -> Json | None:
            job = self.job(job_id, key=key)
            return job if job["status"] in FINAL else None

        found: Json = until(ended, "the job's end", seconds)
        return found

    def balance(self, *, key: str | None = None) -> Json:
        """The account's balance."""
        found: Json = self.call("GET", "/balance", key=key).json()
        return found

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Living descendants of `up` whose title begins so."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if " ".join(child.cmdline()).startswith(title) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def kill(self, title: str) -> None:
        """SIGKILL the one process with that title."""
        (victim,) = self.processes(title)
        victim.kill()

    def memory(self) -> int:
        """Proportional set size of `up` and all below it, in bytes."""
        total = 0
        for process in [psutil.Process(self.process.pid), *self.processes()]:
            try:
                total += process.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
        return total
