"""What a stack survives: its parts killed, its callers racing, its database restarted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import psutil
import pytest
from standardwebhooks import Webhook

from tests.chaos.running import DISPATCHER, REPLICA, Json, RunningStack, until

pytestmark = pytest.mark.stack

PRICE = 10_000


def outcomes(job: Json) -> list[str]:
    return [attempt["outcome"] for attempt in job["details"]["attempts"]]


def test_a_killed_replica_costs_one_attempt_and_one_charge(stack: RunningStack) -> None:
    before = stack.balance()["balanceMicros"]
    job_id = stack.accepted()
    stack.until_running(job_id)
    stack.kill(REPLICA)
    job = stack.finished(job_id)
    assert (job["status"], outcomes(job)) == ("succeeded", ["replica_died", "succeeded"])
    assert job["billing"]["state"] == "captured"
    assert before - stack.balance()["balanceMicros"] == PRICE
    assert stack.run("ledger", "check") == "no drift"


def test_a_killed_dispatcher_only_delays_its_jobs(stack: RunningStack) -> None:
    before = stack.balance()["balanceMicros"]
    job_id = stack.accepted(width=1024, height=1024, highDetail=True)
    stack.until_running(job_id)
    stack.kill(DISPATCHER)
    job = stack.finished(job_id, seconds=180)
    assert (job["status"], outcomes(job)) == ("succeeded", ["session_expired", "succeeded"])
    first, second = job["details"]["attempts"]
    assert first["endedAt"] <= second["startedAt"]
    assert before - stack.balance()["balanceMicros"] == job["billing"]["amountMicros"]


def test_one_key_fifty_times_at_once_is_one_job(stack: RunningStack) -> None:
    key = stack.account("1")
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: stack.submit(key=key, idempotency="same", seed=1), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["jobId"] for answer in answers}) == 1
    assert Counter(answer.headers.get("Idempotency-Replayed") for answer in answers) == {"true": 49, None: 1}
    assert stack.balance(key=key)["heldUsd"] in ("0.010000", "0.000000")
    job = stack.finished(answers[0].json()["jobId"], key=key)
    assert job["status"] == "succeeded"
    assert stack.balance(key=key)["balanceMicros"] == 1_000_000 - PRICE


def test_money_for_one_of_two_jobs_buys_one(stack: RunningStack) -> None:
    key = stack.account("0.015")
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda seed: stack.submit(key=key, seed=seed), (1, 2)))
    assert sorted(answer.status_code for answer in answers) == [202, 402]
    (refused,) = [answer for answer in answers if answer.status_code == 402]
    assert refused.json()["error"] == "insufficient_balance"
    assert refused.json()["details"]["neededUsd"] == "0.010000"
    assert refused.json()["details"]["availableUsd"] == "0.005000"
    (taken,) = [answer for answer in answers if answer.status_code == 202]
    stack.finished(taken.json()["jobId"], key=key)


def test_cancelled_jobs_cost_nothing_and_never_overlap_the_next(stack: RunningStack) -> None:
    before = stack.balance()["balanceMicros"]
    running = stack.accepted(width=1024, height=1024)
    stack.until_running(running)
    following = stack.accepted()
    waiting = stack.accepted()
    cancelled = stack.call("DELETE", "/media/jobs", params={"jobId": waiting})
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    asked = stack.call("DELETE", "/media/jobs", params={"jobId": running})
    assert asked.status_code == 200
    stopped = stack.finished(running)
    assert (stopped["status"], stopped["billing"]["state"]) == ("cancelled", "released")
    assert stopped["stoppedAtStep"] >= 1
    assert stopped["cancelRequestedAt"] <= stopped["gpuReleasedAt"]
    again = stack.call("DELETE", "/media/jobs", params={"jobId": running})
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    done = stack.finished(following)
    assert done["status"] == "succeeded"
    made = (
        datetime.fromisoformat(done["finishedAt"]).timestamp() - done["details"]["upstream"]["timings"]["totalSeconds"]
    )
    assert datetime.fromisoformat(stopped["gpuReleasedAt"]).timestamp() <= made
    assert before - stack.balance()["balanceMicros"] == PRICE


def test_a_database_restart_under_load_is_503_then_well(stack: RunningStack) -> None:
    key = stack.account("5")
    stop = threading.Event()
    answers: list[httpx.Response] = []

    def load() -> None:
        while not stop.is_set():
            answers.append(stack.submit(key=key, width=256, height=256))
            answers.append(stack.call("GET", "/balance", key=key))
            time.sleep(0.2)

    with ThreadPoolExecutor(4) as threads:
        loads = [threads.submit(load) for _ in range(4)]
        time.sleep(1)
        (postmaster,) = [
            process
            for process in stack.processes()
            if process.name() == "postgres" and process.parent() == psutil.Process(stack.process.pid)
        ]
        os.kill(postmaster.pid, signal.SIGINT)
        until(lambda: any(answer.status_code == 503 for answer in answers), "a 503")
        until(lambda: answers[-1].status_code in (200, 202), "recovery")
        time.sleep(1)
        stop.set()
        for done in loads:
            done.result()
    refused = [answer for answer in answers if answer.status_code not in (200, 202)]
    assert {(answer.status_code, answer.json()["error"]) for answer in refused} == {(503, "database_unavailable")}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    accepted = [answer.json()["jobId"] for answer in answers if answer.status_code == 202]
    assert {stack.finished(job_id, key=key, seconds=240)["status"] for job_id in accepted} == {"succeeded"}
    assert stack.run("ledger", "check") == "no drift"


def test_a_killed_background_process_comes_back_and_tells_what_happened_meanwhile(stack: RunningStack) -> None:
    told: list[Json] = []
    secret = stack.call("GET", "/media/webhooks/secret").json()["secret"]

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append(Webhook(secret).verify(body, dict(self.headers)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    def background() -> list[psutil.Process]:
        return [each for each in stack.processes() if "killatamata.background" in " ".join(each.cmdline())]

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (victim,) = background()
        victim.kill()
        job_id = stack.accepted(webhook=f"http://127.0.0.1:{server.server_port}/hook")
        until(lambda: told, "the notice", 120)
        server.shutdown()
    (notice,) = told
    assert (notice["type"], notice["data"]["jobId"]) == ("job.succeeded", job_id)
    (url,) = notice["data"]["downloadableOutputUrls"]
    assert httpx.get(url, trust_env=False).status_code == 200
    (delivery,) = stack.call("GET", "/media/webhooks/deliveries", params={"jobId": job_id}).json()["deliveries"]
    assert (delivery["state"], [each["status"] for each in delivery["attempts"]]) == ("delivered", [200])
    (reborn,) = background()
    assert reborn.pid != victim.pid


def test_the_stack_stays_small(stack: RunningStack) -> None:
    stack.finished(stack.accepted())
    assert stack.memory() < 4 * 2**30
