"""The caller's commands against a scripted API."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response, StreamingResponse

from core.money import usd
from killatamata import client, transport
from tests.acceptance.public_examples import EXAMPLES
from tests.killatamata.conftest import Run
from tests.killatamata.scripted_api import Api, Cut, busy, stream
from tests.killatamata.test_receipts import receipt

ROOT = Path(__file__).resolve().parents[2]
JOBS = "/api/v1/media/jobs"
PICTURE = b"RIFF a picture"
BILLING = {"amountUsd": "0.020972", "amountMicros": 20972, "state": "held"}
ACCEPTED = {"jobId": "job_00000001", "status": "queued", "billing": BILLING}


def job(status: str, **parts: Any) -> dict[str, Any]:
    found = {
        "jobId": "job_00000001",
        "task": "image.generate",
        "status": status,
        "progress": 1.0 if status == "succeeded" else 0.25,
        "stage": None,
        "sequence": 1,
        "createdAt": "2026-11-23T10:00:00.000Z",
        "billing": {**BILLING, "state": "captured" if status == "succeeded" else "held"},
        "outputs": [],
        "details": {
            "effectiveInput": {"prompt": "a [red]fox", "seed": 7},
            "inputAdjustments": [],
            "attempts": [{"startedAt": "x", "outcome": "succeeded"}],
            "stages": [{"name": "encode", "gpuSeconds": 0.5}],
            "upstream": {"timings": {"totalSeconds": 0.4}},
        },
    }
    return {**found, **parts}


def output(api: Api) -> dict[str, Any]:
    digest = hashlib.sha256(PICTURE).hexdigest()
    size = len(PICTURE)
    return {
        "role": "primary",
        "url": f"{api.base_url}/file",
        "mimeType": "image/webp",
        "bytes": size,
        "sha256": digest,
    }


@pytest.fixture
def run(commands: Run, api: Api, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("KILLATAMATA_API_BASE", f"{api.base_url}/")
    monkeypatch.setenv("KILLATAMATA_API_KEY", "kt_key\n")
    monkeypatch.setattr(transport, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(client, "_POLL_SECONDS", 0.01)
    return commands


def test_every_option_of_a_submit_reaches_the_api(run: Run, api: Api, tmp_path: Path) -> None:
    picture = tmp_path / "fox.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    api.on("POST", JOBS, JSONResponse(ACCEPTED, 202))
    words = "--max-cost 0.05 --priority batch --strict --start-timeout 60 --cancel-after 90 --quote-token qt"
    code, out, err = run(
        "submit",
        "image.generate",
        *("--input", "prompt=a fox", "--input", "width=512", "--file", f"referenceImages=@{picture}"),
        *words.split(),
        *("--webhook-url", "https://hooks.test/x", "--idempotency-key", "mine"),
    )
    assert (code, out) == (0, "job_00000001")
    assert "killatamata jobs watch job_00000001" in err
    (sent,) = api.requests
    assert json.loads(sent.body) == {
        "task": "image.generate",
        "input": {
            "prompt": "a fox",
            "width": 512,
            "referenceImages": [{"dataBase64": "iVBORw0KGgo=", "mimeType": "image/png"}],
        },
        "maxCostUsd": "0.05",
        "priority": "batch",
        "startTimeoutSeconds": 60,
        "cancelAfterSeconds": 90,
        "quoteToken": "qt",
        "webhookUrl": "https://hooks.test/x",
    }
    assert sent.query == {"strict": "1"}
    assert sent.headers["x-idempotency-key"] == "mine"
    assert sent.headers["authorization"] == "Bearer kt_key"


def test_what_is_not_said_is_not_sent(run: Run, api: Api) -> None:
    api.on("POST", JOBS, JSONResponse(ACCEPTED, 202))
    code, out, _ = run("submit", "image.generate", "--json")
    assert (code, json.loads(out)) == (0, ACCEPTED)
    (sent,) = api.requests
    assert (json.loads(sent.body), sent.query) == ({"task": "image.generate", "input": {}}, {})
    assert len(sent.headers["x-idempotency-key"]) == 32


def test_a_submit_that_breaks_off_is_sent_again_and_its_outputs_are_downloaded(
    run: Run, api: Api, tmp_path: Path
) -> None:
    done = JSONResponse(job("succeeded", outputs=[output(api)]))
    api.on("POST", JOBS, Cut(), busy(), JSONResponse(ACCEPTED, 202))
    api.on("GET", JOBS, JSONResponse(job("queued")), Cut(), done)
    api.on(
        "GET",
        f"{JOBS}/events",
        stream('id: 2\nevent: progress\ndata: {"progress": 0.5}\n\n', cut=True),
        stream('id: 3\nevent: state\ndata: {"status": "succeeded"}\n\n'),
    )
    api.on("GET", "/file", Response(PICTURE))
    code, out, err = run("submit", "image.generate", "--wait", "--out", str(tmp_path / "out"))
    path = tmp_path / "out" / "image.generate-00000001.webp"
    assert (code, out) == (0, str(path))
    assert path.read_bytes() == PICTURE
    assert len({each.headers["x-idempotency-key"] for each in api.seen("POST", JOBS)}) == 1
    assert "image.generate $0.020972" in err
    assert [each.headers["last-event-id"] for each in api.seen("GET", f"{JOBS}/events")] == ["1", "2"]


def test_programs_get_the_finished_job_and_its_files(run: Run, api: Api, tmp_path: Path) -> None:
    done = job("succeeded", outputs=[output(api)])
    api.on("POST", JOBS, JSONResponse(ACCEPTED, 202))
    api.on("GET", JOBS, JSONResponse(done))
    api.on("GET", "/file", Response(PICTURE))
    code, out, _ = run("submit", "image.generate", "--wait", "--json", "--out", str(tmp_path))
    assert code == 0
    assert json.loads(out) == {**done, "files": [str(tmp_path / "image.generate-00000001.webp")]}


def test_a_failed_job_fails_the_command_with_its_own_words(run: Run, api: Api) -> None:
    failure = {"code": "fetch_failed", "message": "The URL delivers more than 5 bytes.", "retryable": False}
    api.on("POST", JOBS, JSONResponse(ACCEPTED, 202))
    api.on("GET", JOBS, JSONResponse(job("failed", error="fetch_failed", failure=failure)))
    code, out, err = run("submit", "image.generate", "--wait", "--json")
    assert (code, json.loads(out)["status"]) == (1, "failed")
    assert "The URL delivers more than 5 bytes. (job_00000001)" in err
    api.on("GET", JOBS, JSONResponse(job("cancelled")))
    assert run("jobs", "watch", "job_00000001")[0] == 1


def test_a_refusal_tells_the_key_that_was_used(run: Run, api: Api) -> None:
    refusal = {"error": "insufficient_balance", "details": {"message": "Top up first.", "neededUsd": "1"}}
    api.on("POST", JOBS, JSONResponse(refusal, 402))
    code, out, err = run("submit", "image.generate", "--json")
    assert (code, json.loads(out)) == (1, refusal)
    assert "402 insufficient_balance: Top up first." in err
    assert api.requests[0].headers["x-idempotency-key"] in err


def test_an_unknown_outcome_tells_the_key_too(run: Run, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "TRIES", 2)
    api.on("POST", JOBS, Cut())
    code, _, err = run("submit", "image.generate", "--idempotency-key", "mine")
    assert code == 1
    assert "The idempotency key was mine" in err
    assert "cannot be reached" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("submit", "image.edit", "--file", "sourceImage=@/no/such.png"), "No such file"),
        (("submit", "image.edit", "--file", "sourceImage=fox.png"), "--file takes name=@path"),
        (("submit", "image.edit", "--input", "prompt"), "--input takes name=value"),
        (("quote",), "name a task"),
        (("quote", "image.edit", "--all-examples"), "takes no task"),
    ],
)
def test_what_cannot_be_sent_is_not_sent(run: Run, api: Api, words: tuple[str, ...], said: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert said in err
    assert api.requests == []


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "x", "--priority", "urgent"),
        ("submit", "x", "--start-timeout", "soon"),
        ("submit",),
        ("jobs", "list", "--status", "lost"),
        ("jobs", "show"),
        ("receipt",),
    ],
)
def test_wrong_words_fail(run: Run, api: Api, words: tuple[str, ...]) -> None:
    assert run(*words)[0] != 0
    assert api.requests == []


@pytest.mark.parametrize("base", ["localhost:8080", "ftp://x", "//x"])
def test_an_address_that_is_none_is_said_to_be_none(run: Run, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.setenv("KILLATAMATA_API_BASE", base)
    code, _, err = run("jobs", "list")
    assert (code, "must begin with http:// or https://" in err) == (1, True)


def test_a_quote_shows_its_lines_and_prints_its_token(run: Run, api: Api) -> None:
    made = {
        "billing": {**BILLING, "lineItems": [{"label": "picture", "quantity": "1.048576", "unit": "megapixel"}]},
        "inputAdjustments": [{"field": "width", "from": 1000, "to": 992, "reason": "multiple of 32", "at": "submit"}],
        "quoteToken": "qt_1",
        "expiresAt": "2026-11-23T10:15:00Z",
    }
    api.on("POST", "/api/v1/media/quotes", JSONResponse(made))
    code, out, err = run("quote", "image.generate", "--input", "width=1000", "--max-cost", "1")
    assert code == 0
    assert out.splitlines()[-1] == "qt_1"
    for part in ("$0.020972", "megapixel", "992", "multiple of 32"):
        assert part in out
    assert "2026-11-23T10:15:00Z" in err
    assert json.loads(api.requests[0].body)["maxCostUsd"] == "1"
    assert json.loads(run("quote", "image.generate", "--json")[1]) == made


def test_every_public_example_is_priced(run: Run) -> None:
    prices = [(each.task, f"${usd(each.micros)}") for each in EXAMPLES]
    code, out, _ = run("quote", "--all-examples")
    assert code == 0
    for task, price in prices:
        assert task in out
        assert price in out
    code, out, _ = run("quote", "--all-examples", "--json")
    assert code == 0
    assert [(row["task"], row["price"]) for row in json.loads(out)] == prices


def test_jobs_are_listed_by_page_or_all(run: Run, api: Api) -> None:
    page = {"jobs": [job("running")], "nextCursor": "more"}
    api.on("GET", JOBS, JSONResponse(page))
    code, out, err = run("jobs", "list", "--status", "running", "--task", "image.generate", "--limit", "1")
    assert code == 0
    for part in ("job_00000001", "image.generate", "running", "25%", "0.020972 held", "2026-11-23T10:00:00.000Z"):
        assert part in out
    assert "--all" in err
    assert api.requests[0].query == {"status": "running", "task": "image.generate", "limit": "1"}
    api.on("GET", JOBS, JSONResponse(page), JSONResponse({"jobs": [job("failed")], "nextCursor": None}))
    code, out, _ = run("jobs", "list", "--all", "--json")
    assert [each["status"] for each in json.loads(out)["jobs"]] == ["running", "failed"]
    api.on("GET", JOBS, JSONResponse({"jobs": [], "nextCursor": None}))
    assert run("jobs", "list")[0] == 0


def test_a_narrow_terminal_cuts_no_id(run: Run, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    api.on("GET", JOBS, JSONResponse({"jobs": [job("running")], "nextCursor": None}))
    _, out, _ = run("jobs", "list")
    assert "…" not in out


def test_a_job_is_shown_with_or_without_details(run: Run, api: Api) -> None:
    api.on("GET", JOBS, JSONResponse(job("succeeded", outputs=[output(api)], engine="qwen-image")))
    code, out, _ = run("jobs", "show", "job_00000001")
    assert code == 0
    assert f"primary image/webp {len(PICTURE)} bytes: {api.base_url}/file" in out
    assert "qwen-image" in out
    assert "encode" not in out
    _, out, _ = run("jobs", "show", "job_00000001", "--details")
    assert "encode" in out
    assert '{"totalSeconds": 0.4}' in out
    assert "a [red]fox" in out, "what callers wrote is shown as they wrote it"
    assert api.requests[-1].query == {"jobId": "job_00000001", "includeDetails": "1"}
    gone = {**output(api), "url": None}
    api.on("GET", JOBS, JSONResponse(job("succeeded", outputs=[gone])))
    assert "bytes: deleted" in run("jobs", "show", "job_00000001")[1]
    code, _, err = run("jobs", "watch", "job_00000001", "--out", "nowhere")
    assert (code, "no longer kept" in err) == (1, True)


def test_a_cancel_says_what_became_of_the_job(run: Run, api: Api) -> None:
    api.on("DELETE", JOBS, JSONResponse(job("cancelled", billing={**BILLING, "state": "released"})))
    assert run("jobs", "cancel", "job_00000001")[1] == "job_00000001 is cancelled, $0.020972 released"
    api.on("DELETE", JOBS, JSONResponse(job("running")))
    code, out, _ = run("jobs", "cancel", "job_00000001")
    assert (code, "is asked to stop" in out) == (0, True)
    assert json.loads(run("jobs", "cancel", "job_00000001", "--json")[1])["status"] == "running"
    missing = {"error": "not_found", "details": {"message": "There is no such job."}}
    api.on("DELETE", JOBS, JSONResponse(missing, 404))
    code, _, err = run("jobs", "cancel", "job_00000002")
    assert (code, "404 not_found: There is no such job." in err) == (1, True)


def test_a_receipt_is_checked_before_it_is_believed(run: Run, api: Api) -> None:
    told = {**receipt(), "amountUsd": "0.020972"}
    api.on("GET", f"{JOBS}/receipt", JSONResponse(told))
    code, out, err = run("receipt", "job_00000001")
    assert code == 0
    for part in ("$0.020972 captured", "mov_1", "available", "-0.020972", "revenue"):
        assert part in out
    assert "what its hash seals" in err
    code, out, _ = run("receipt", "job_00000001", "--json")
    assert (code, json.loads(out)) == (0, told)
    told["movements"][1]["entries"][1]["amountMicros"] = 1
    api.on("GET", f"{JOBS}/receipt", JSONResponse(told))
    for words in ((), ("--json",)):
        code, _, err = run("receipt", "job_00000001", *words)
        assert (code, "not what their hashes seal: mov_2" in err) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["submit", "wait", "watch"])
def test_an_interrupted_command_says_how_to_go_on(api: Api, tmp_path: Path, phase: str, number: int) -> None:
    async def silent() -> Any:
        yield ": heartbeat\n\n"
        while True:
            await asyncio.sleep(0.1)

    waiting = {"submit": ("POST", JOBS)}.get(phase, ("GET", f"{JOBS}/events"))
    api.on("POST", JOBS, busy("30") if phase == "submit" else JSONResponse(ACCEPTED, 202))
    api.on("GET", JOBS, JSONResponse(job("running")))
    api.on("GET", f"{JOBS}/events", lambda: StreamingResponse(silent(), media_type="text/event-stream"))
    words = ["jobs", "watch", "job_00000001"] if phase == "watch" else ["submit", "image.generate", "--wait"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KILLATAMATA_")}
    process = subprocess.Popen(
        [sys.executable, "-c", "from killatamata.cli import main; main()", *words],
        cwd=ROOT,
        env=environment
        | {
            "KILLATAMATA_API_BASE": api.base_url,
            "KILLATAMATA_API_KEY": "kt_key",
            "KILLATAMATA_DATA_DIR": str(tmp_path / "data"),
            "COLUMNS": "200",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        api.wait_for(*waiting)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    if phase == "submit":
        assert "--idempotency-key" in err
        assert api.requests[0].headers["x-idempotency-key"] in err
    else:
        assert "The job goes on. Watch it again: killatamata jobs watch job_00000001" in err
    assert "Traceback" not in err
