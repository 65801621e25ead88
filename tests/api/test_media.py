from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from api import offers
from core.clock import now
from core.errors import QueueFull, TaskUnavailable
from core.ids import decode, encode, uuid7
from jobs.models import Attempt, Stage
from storage import LocalStore
from tests.api.doubles import OTHER_KEY, THEN, JobsDouble

JOBS, QUOTES = "/api/v1/media/jobs", "/api/v1/media/quotes"
BLURHASH = "LEHV6nWB2yk8pyo0adR*.7kCMdnj"
FOX = {"task": "image.generate", "input": {"prompt": "cinematic fox astronaut", "width": 1024, "height": 1024}}


PNG = b"\x89PNG\r\n\x1a\n"


def inline(content: bytes, head: str = "data:image/png;base64,") -> dict[str, Any]:
    return asked(referenceImages=[{"dataBase64": head + base64.b64encode(content).decode(), "mimeType": "image/png"}])


def body(**changes: Any) -> dict[str, Any]:
    return {**FOX, **changes}


def asked(**changes: Any) -> dict[str, Any]:
    return body(input={**FOX["input"], **changes})  # type: ignore[dict-item]


def fields(answer: Any) -> dict[str, dict[str, Any]]:
    return {each["path"]: each for each in answer.json()["details"]["fields"]}


def test_a_submit_answers_as_the_contract_says(client: TestClient, jobs: JobsDouble) -> None:
    answer = client.post(JOBS, json=asked(width=1000))
    assert answer.status_code == 202
    job = answer.json()
    assert set(job) == {
        "jobId", "id", "externalJobId", "task", "status", "billing", "durationEstimate", "effectiveInput",
        "inputAdjustments", "warnings", "statusUrl", "eventsUrl", "cancelUrl",
    }  # fmt: skip
    assert job["jobId"] == job["id"] == job["externalJobId"]
    assert decode("job", job["id"]) in jobs.jobs
    assert job["status"] == "queued"
    url = f"https://api.example.test{JOBS}?jobId={job['id']}"
    assert answer.headers["location"] == job["statusUrl"] == job["cancelUrl"] == url
    assert job["inputAdjustments"] == [
        {"field": "width", "from": 1000, "to": 992, "reason": "multiple of 32", "at": "submit"}
    ]
    billing = job["billing"]
    assert billing["amountMicros"] == sum(line["amountMicros"] for line in billing["lineItems"])
    assert billing["amountUsd"] == f"0.{billing['amountMicros']:06}"
    assert billing["state"] == "held"
    assert billing["balanceAfterUsd"] == f"9.{1_000_000 - billing['amountMicros']:06}"
    assert isinstance(job["effectiveInput"]["seed"], int)
    assert job["durationEstimate"]["outputSeconds"] is None
    assert job["durationEstimate"]["basis"] == "prior"


def test_a_submission_carries_what_was_asked(client: TestClient, jobs: JobsDouble) -> None:
    client.post(
        JOBS,
        json=body(priority="batch", startTimeoutSeconds=60.0, maxCostUsd="1"),
        headers={"Idempotency-Key": "k", "X-Request-Id": "trace-1"},
    )
    client.post(JOBS, json=FOX)
    one, two = jobs.submissions
    assert (one.priority, one.start_timeout_seconds, one.idempotency_key) == ("batch", 60, "k")
    assert (two.priority, two.start_timeout_seconds, two.idempotency_key) == ("standard", 3600, None)
    assert (one.request_id, one.pools) == ("trace-1", ("qwen-image",))
    assert one.cost_seconds > 0
    assert len(one.fingerprint) == 32


def test_the_same_key_is_the_same_job(client: TestClient, jobs: JobsDouble) -> None:
    headers = {"X-Idempotency-Key": "job-001"}
    first = client.post(JOBS, json=FOX, headers=headers)
    again = client.post(JOBS, json={**FOX, "idempotencyKey": "job-001"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert {**first.json(), "eventsUrl": ""} == {**again.json(), "eventsUrl": ""}
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert len(jobs.jobs) == 1
    other = client.post(JOBS, json=asked(seed=1), headers=headers)
    assert (other.status_code, other.json()["error"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize("path", [JOBS, QUOTES])
@pytest.mark.parametrize(
    ("sent", "problem", "nearest"),
    [
        ({}, "task", None),
        ({"task": "image.generate"}, "input", None),
        ({"task": "image.generat", "input": {}}, "task", "image.generate"),
        ({"task": 1, "input": {}}, "task", None),
        ({"task": ["image.generate"], "input": {}}, "task", None),
        (body(input=[]), "input", None),
        (body(input="fox"), "input", None),
        (body(input={}), "input.prompt", None),
        (asked(widht=1), "input.widht", "width"),
        (asked(width="1024"), "input.width", 1024),
        (asked(seed=-1), "input.seed", 0),
        (body(inputs={}), "inputs", "input"),
        (body(webhookUrl="example.com"), "webhookUrl", None),
        (body(cancelAfterSeconds=0), "cancelAfterSeconds", 1),
        (body(priority="urgent"), "priority", "standard"),
        (body(priority=1), "priority", None),
        (body(startTimeoutSeconds=0), "startTimeoutSeconds", 1),
        (body(startTimeoutSeconds="60"), "startTimeoutSeconds", 60),
        (body(startTimeoutSeconds=True), "startTimeoutSeconds", None),
        (body(maxCostUsd="free"), "maxCostUsd", None),
        (body(maxCostUsd=-1), "maxCostUsd", None),
        (body(maxCostUsd=True), "maxCostUsd", None),
        (body(maxCostUsd="1e999999999"), "maxCostUsd", None),
        (body(maxCostUsd=1e300), "maxCostUsd", None),
        (body(maxCostUsd=0.0000001), "maxCostUsd", None),
        (body(maxCostUsd=10**4000), "maxCostUsd", None),
        (body(maxCostUsd={}), "maxCostUsd", None),
    ],
)
def test_a_bad_request_is_422_with_its_field(
    client: TestClient, jobs: JobsDouble, path: str, sent: object, problem: str, nearest: object
) -> None:
    answer = client.post(path, json=sent)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_input")
    assert problem in fields(answer)
    if nearest is not None:
        assert fields(answer)[problem].get("nearest") == nearest
    assert jobs.jobs == {}


def test_strict_refuses_an_adjustment(client: TestClient, jobs: JobsDouble) -> None:
    answer = client.post(f"{JOBS}?strict=1", json=asked(width=1000))
    assert answer.status_code == 422
    assert fields(answer)["input.width"]["nearest"] == 992
    assert client.post(f"{JOBS}?strict=1", json=asked(width=992)).status_code == 202
    assert client.post(f"{JOBS}?strict=2", json=FOX).status_code == 422
    assert len(jobs.jobs) == 1


@pytest.mark.parametrize(
    ("limit", "status"),
    [("0.020971", 422), ("0.020972", 202), (0.020972, 202), (0.02, 422), (0, 422), (1, 202), ("1.5", 202)],
)
def test_a_price_above_the_callers_limit_is_refused(client: TestClient, limit: object, status: int) -> None:
    answer = client.post(JOBS, json=body(maxCostUsd=limit))
    assert answer.status_code == status
    if status == 422:
        assert answer.json()["error"] == "over_max_cost"
        assert answer.json()["details"]["amountUsd"] == "0.020972"


def test_an_empty_purse_is_402(client: TestClient, jobs: JobsDouble) -> None:
    jobs.purse = 20_971
    answer = client.post(JOBS, json=FOX)
    assert (answer.status_code, answer.json()["error"]) == (402, "insufficient_balance")
    details = answer.json()["details"]
    assert (details["neededUsd"], details["availableUsd"]) == ("0.020972", "0.020971")
    assert details["topUpUrl"] == "https://api.example.test/dashboard"
    assert jobs.jobs == {}


@pytest.mark.parametrize(
    ("refusal", "status", "code", "pause"),
    [(TaskUnavailable("No pool."), 503, "task_unavailable", "60"), (QueueFull("Full."), 429, "queue_full", "30")],
)
def test_a_refusal_says_when_to_come_back(
    client: TestClient,
    jobs: JobsDouble,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Exception,
    status: int,
    code: str,
    pause: str,
) -> None:
    async def refuse(submission: object) -> None:
        raise refusal

    monkeypatch.setattr(jobs, "submit", refuse)
    answer = client.post(JOBS, json=FOX)
    assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (status, code, pause)


def test_a_quote_promises_its_price_and_seed(client: TestClient, jobs: JobsDouble) -> None:
    quote = client.post(QUOTES, json=FOX)
    assert quote.status_code == 200
    found = quote.json()
    assert set(found) == {
        "billing", "durationEstimate", "effectiveInput", "inputAdjustments", "warnings", "quoteToken", "expiresAt",
    }  # fmt: skip
    assert set(found["billing"]) == {"currency", "amountUsd", "amountMicros", "priceBookVersion", "lineItems"}
    assert jobs.jobs == {}
    job = client.post(JOBS, json=body(quoteToken=found["quoteToken"])).json()
    assert job["effectiveInput"] == found["effectiveInput"]
    assert job["billing"]["amountMicros"] == found["billing"]["amountMicros"]


def test_a_quote_with_the_callers_seed_keeps_it(client: TestClient) -> None:
    token = client.post(QUOTES, json=asked(seed=7)).json()["quoteToken"]
    assert client.post(JOBS, json={**asked(seed=7), "quoteToken": token}).json()["effectiveInput"]["seed"] == 7
    assert client.post(JOBS, json={**asked(seed=8), "quoteToken": token}).json()["error"] == "quote_mismatch"
    assert client.post(JOBS, json=body(quoteToken=token)).json()["error"] == "quote_mismatch"


def test_a_quote_of_something_else_is_409(client: TestClient, jobs: JobsDouble) -> None:
    token = client.post(QUOTES, json=FOX).json()["quoteToken"]
    # Not the last character: two of its six bits say nothing.
    tampered = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    for sent, key in [
        ({**asked(width=512, height=512), "quoteToken": token}, None),
        (body(quoteToken=token), OTHER_KEY),
        (body(quoteToken=tampered), None),
        (body(quoteToken="nonsense"), None),
        (body(quoteToken=""), None),
    ]:
        answer = client.post(JOBS, json=sent, headers={"x-api-key": key} if key else {})
        assert (answer.status_code, answer.json()["error"]) == (409, "quote_mismatch")
    assert client.post(JOBS, json=body(quoteToken="x" * 1025)).status_code == 422
    assert jobs.jobs == {}


def test_a_quote_ends(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    token = client.post(QUOTES, json=FOX).json()["quoteToken"]
    monkeypatch.setattr(offers, "now", lambda: now() + timedelta(minutes=15))
    answer = client.post(JOBS, json=body(quoteToken=token))
    assert (answer.status_code, answer.json()["error"]) == (409, "quote_expired")


def test_a_retry_outlives_its_quote(client: TestClient, jobs: JobsDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    token = client.post(QUOTES, json=FOX).json()["quoteToken"]
    first = client.post(JOBS, json=body(quoteToken=token), headers={"X-Idempotency-Key": "k"})
    monkeypatch.setattr(offers, "now", lambda: now() + timedelta(minutes=15))
    again = client.post(JOBS, json=body(quoteToken=token), headers={"X-Idempotency-Key": "k"})
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert again.json()["jobId"] == first.json()["jobId"]
    assert len(jobs.jobs) == 1
    for headers, sent, code in [
        ({"X-Idempotency-Key": "k"}, {**asked(prompt="other"), "quoteToken": token}, "idempotency_conflict"),
        ({"X-Idempotency-Key": "other"}, body(quoteToken=token), "quote_expired"),
    ]:
        answer = client.post(JOBS, json=sent, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (409, code)


def test_a_quote_takes_no_token(client: TestClient) -> None:
    answer = client.post(QUOTES, json=body(quoteToken="x"))
    assert "quoteToken" in fields(answer)


def test_inline_media_and_query_strings_are_not_shown(client: TestClient) -> None:
    content = PNG + b"secret bytes"
    sent = asked(
        prompt="https://example.com/?q=1",
        referenceImages=[
            "https://cdn.example.com/a.webp?token=secret#part",
            {"dataBase64": base64.b64encode(content).decode(), "mimeType": "image/png"},
        ],
    )
    answer = client.post(QUOTES, json=sent)
    assert "secret" not in answer.text
    shown = answer.json()["effectiveInput"]
    assert shown["prompt"] == "https://example.com/?q=1"
    assert shown["referenceImages"] == [
        "https://cdn.example.com/a.webp",
        {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "mimeType": "image/png"},
    ]


@pytest.mark.parametrize("size", [100, 120_000])
def test_inline_media_are_stored_and_named_by_a_submit_only(
    client: TestClient, jobs: JobsDouble, store: LocalStore, size: int
) -> None:
    content = PNG + bytes(size)
    key = f"in/{hashlib.sha256(content).hexdigest()}"
    quote = client.post(QUOTES, json=inline(content)).json()
    assert list(store.keys()) == []
    job = client.post(JOBS, json={**inline(content, head=""), "quoteToken": quote["quoteToken"]})
    assert job.status_code == 202, "the same bytes, written another way, are what was quoted"
    assert store.read(key) == content
    (submission,) = jobs.submissions
    assert submission.inputs == (hashlib.sha256(content).digest(),)
    named = [{"sha256": key[3:], "mimeType": "image/png", "bytes": len(content)}]
    assert submission.effective_input["referenceImages"] == named
    assert job.json()["effectiveInput"]["referenceImages"] == quote["effectiveInput"]["referenceImages"] == named
    assert client.get(JOBS, params={"jobId": job.json()["id"]}).status_code == 200


def test_a_key_is_for_one_way_to_write_the_bytes(client: TestClient, jobs: JobsDouble) -> None:
    headers = {"Idempotency-Key": "k"}
    first = client.post(JOBS, json=inline(PNG), headers=headers)
    assert client.post(JOBS, json=inline(PNG), headers=headers).json() == first.json()
    assert client.post(JOBS, json=inline(PNG, head=""), headers=headers).json()["error"] == "idempotency_conflict"


def test_an_unsupported_inline_file_is_422_and_is_not_stored(client: TestClient, store: LocalStore) -> None:
    for path in (JOBS, QUOTES):
        answer = client.post(path, json=inline(b"GIF89a"))
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid_input")
        assert "convert it" in fields(answer)["input.referenceImages[0].dataBase64"]["message"]
    assert list(store.keys()) == []


def test_a_mislabelled_inline_file_is_reported(client: TestClient) -> None:
    answer = client.post(JOBS, json=inline(b"\xff\xd8\xff\xe0"))
    assert answer.json()["inputAdjustments"] == [
        {
            "field": "referenceImages[0].mimeType",
            "from": "image/png",
            "to": "image/jpeg",
            "reason": "the file's content",
            "at": "submit",
        }
    ]
    assert client.post(f"{JOBS}?strict=1", json=inline(b"\xff\xd8\xff\xe0")).status_code == 422


@pytest.mark.parametrize("path", [JOBS, QUOTES])
@pytest.mark.parametrize(
    ("content", "said", "warnings"),
    [
        (b"\xff\xd8\xff\xe0", "image/webp", ["jpeg_overlap_frames"]),
        (b"\xff\xd8\xff\xe0", "image/jpeg", ["jpeg_overlap_frames"]),
        (b"RIFF\x04\0\0\0WEBP", "image/jpeg", []),
        (PNG, "image/webp", []),
    ],
)
def test_a_warning_is_about_what_the_file_is_and_not_what_it_is_called(
    client: TestClient, path: str, content: bytes, said: str, warnings: list[str]
) -> None:
    picture = {"dataBase64": base64.b64encode(content).decode(), "mimeType": said}
    clip = {"task": "video.generate", "input": {"prompt": "on", "overlapFrameImages": [picture]}}
    answer = client.post(path, json=clip)
    assert answer.status_code in (200, 202), answer.text
    assert answer.json()["warnings"] == warnings


def test_a_live_job_is_read(client: TestClient) -> None:
    job_id = client.post(JOBS, json=FOX).json()["jobId"]
    answer = client.get(JOBS, params={"jobId": job_id})
    assert answer.status_code == 200
    assert answer.headers["retry-after"] == "1"
    job = answer.json()
    assert job["id"] == job["jobId"] == job["externalJobId"] == job_id
    assert (job["status"], job["progress"], job["stage"], job["queuePosition"]) == ("queued", 0.0, None, None)
    assert (job["createdAt"], job["startedAt"], job["finishedAt"]) == ("2026-11-23T10:00:00.123Z", None, None)
    assert (job["downloadableOutputUrls"], job["outputs"]) == ([], [])
    assert job["billing"]["state"] == "held"
    assert not {"error", "failure", "details", "effectiveInput"} & set(job)
    assert not {"balanceAfterUsd", "capturedAt", "releasedAt"} & set(job["billing"])


@pytest.mark.parametrize("text", ["", "x", "job_", "job_" + "z" * 26, "job_" + "0" * 10_000, "key_" + "0" * 26, "\0"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_such_job_is_404(client: TestClient, method: str, text: str) -> None:
    answer = client.request(method, JOBS, params={"jobId": text})
    assert (answer.status_code, answer.json()["error"]) in [(404, "not_found"), (422, "invalid_input")]
    assert (answer.status_code == 422) is (text == "\0")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_job_of_another_account_is_not_there(client: TestClient, jobs: JobsDouble, method: str) -> None:
    job_id = client.post(JOBS, json=FOX).json()["jobId"]
    theirs = client.request(method, JOBS, params={"jobId": job_id}, headers={"x-api-key": OTHER_KEY})
    nobodys = client.request(method, JOBS, params={"jobId": encode("job", uuid7())})
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json() == nobodys.json()
    assert client.get(JOBS, params={"jobId": job_id}).json()["status"] == "queued"


def test_a_cancel_needs_its_job(client: TestClient) -> None:
    answer = client.delete(JOBS)
    assert answer.status_code == 422
    assert "jobId" in fields(answer)
    assert fields(client.get(JOBS, params={"jobid": "x"}))["jobid"]["nearest"] == "jobId"


def test_a_cancel_is_told_the_true_state(client: TestClient) -> None:
    job_id = client.post(JOBS, json=FOX).json()["jobId"]
    for _ in range(2):
        answer = client.delete(JOBS, params={"jobId": job_id})
        assert answer.status_code == 200
        assert answer.json()["status"] == "cancelled"
        assert answer.json()["billing"]["state"] == "released"
        assert answer.json()["billing"]["releasedAt"] == "2026-11-23T10:00:00.123Z"
        assert "retry-after" not in answer.headers


def finished(client: TestClient, jobs: JobsDouble, **changes: Any) -> str:
    """Submit, and end the job now; its id."""
    job_id: str = client.post(JOBS, json=FOX).json()["jobId"]
    key = decode("job", job_id)
    assert key is not None
    ended: dict[str, Any] = {"state": "succeeded", "hold_state": "captured", "captured_at": THEN, "finished_at": now()}
    jobs.jobs[key] = replace(jobs.jobs[key], progress=1.0, **(ended | changes))
    return job_id


def test_a_finished_job_has_one_url_that_works(client: TestClient, jobs: JobsDouble, store: LocalStore) -> None:
    artifact = store.put("jobs/1/1/image.webp", b"RIFFxxxxWEBP", "image/webp")
    record = {
        "role": "primary", "key": artifact.key, "mimeType": "image/webp", "bytes": artifact.bytes,
        "sha256": artifact.sha256, "width": 1024, "height": 1024, "newMeasure": 3, "blurhash": BLURHASH,
    }  # fmt: skip
    thumbnail = record | {"role": "thumbnail"}
    del thumbnail["blurhash"]
    job_id = finished(client, jobs, outputs=[record, thumbnail], engine="qwen-image", stand_in=True)
    answer = client.get(JOBS, params={"jobId": job_id})
    job = answer.json()
    assert "retry-after" not in answer.headers
    assert "jobs/1/1/image.webp@" not in answer.text
    output = job["outputs"][0]
    assert "key" not in output
    assert (output["width"], output["newMeasure"], output["role"]) == (1024, 3, "primary")
    assert output["blurhash"] == BLURHASH
    assert "durationSeconds" not in output
    assert output["deleteAt"] > output["expiresAt"]
    assert job["downloadableOutputUrls"] == [output["url"]]
    assert job["billing"]["capturedAt"] == "2026-11-23T10:00:00.123Z"
    file = client.get(output["url"], headers={"x-api-key": ""})
    assert (file.status_code, file.content) == (200, b"RIFFxxxxWEBP")
    assert file.headers["content-disposition"] == f'attachment; filename="{job_id}.webp"'
    small = client.get(job["outputs"][1]["url"], headers={"x-api-key": ""})
    assert small.headers["content-disposition"] == f'attachment; filename="{job_id}-thumbnail.webp"'
    assert "blurhash" not in job["outputs"][1]


@pytest.mark.parametrize("late", [{"finished_at": now() - timedelta(days=8)}, {"outputs_deleted_at": now()}])
def test_after_its_window_an_output_has_no_url(client: TestClient, jobs: JobsDouble, late: dict[str, Any]) -> None:
    record = {"role": "primary", "key": "jobs/1/1/a.webp", "mimeType": "image/webp", "bytes": 1, "sha256": "0" * 64}
    job = client.get(JOBS, params={"jobId": finished(client, jobs, outputs=[record], **late)}).json()
    assert job["downloadableOutputUrls"] == []
    assert (job["outputs"][0]["url"], job["outputs"][0]["expiresAt"]) == (None, None)
    assert job["status"] == "succeeded"


def test_a_failed_job_is_an_answer(client: TestClient, jobs: JobsDouble) -> None:
    failure = {"code": "fetch_failed", "message": "Gone.", "path": "input.referenceImages[0]", "retryable": False}
    ended: dict[str, Any] = {"state": "failed", "hold_state": "released", "captured_at": None, "released_at": THEN}
    job_id = finished(client, jobs, failure=failure, **ended)
    answer = client.get(JOBS, params={"jobId": job_id})
    assert answer.status_code == 200
    assert answer.json()["error"] == "fetch_failed"
    assert answer.json()["failure"] == failure
    job_id = finished(client, jobs, failure={k: v for k, v in failure.items() if k != "path"}, **ended)
    assert "path" not in client.get(JOBS, params={"jobId": job_id}).json()["failure"]


def test_details_are_given_when_asked_for(client: TestClient, jobs: JobsDouble) -> None:
    attempt = Attempt(THEN, THEN, "succeeded", "r-1")
    stage = Stage("model", THEN, None, 1.5)
    job_id = finished(client, jobs, attempts=[attempt], stages=[stage], upstream={"steps": 30})
    for asked_for in ("1", "true"):
        job = client.get(JOBS, params={"jobId": job_id, "includeDetails": asked_for}).json()
        details = job["details"]
        assert details["effectiveInput"]["prompt"] == "cinematic fox astronaut"
        assert details["attempts"] == [
            {
                "startedAt": "2026-11-23T10:00:00.123Z",
                "endedAt": "2026-11-23T10:00:00.123Z",
                "outcome": "succeeded",
                "replica": "r-1",
            }
        ]
        assert details["stages"][0]["gpuSeconds"] == 1.5
        assert details["upstream"] == {"steps": 30}
    assert "details" not in client.get(JOBS, params={"jobId": job_id, "includeDetails": "0"}).json()
    assert client.get(JOBS, params={"jobId": job_id, "includeDetails": "maybe"}).status_code == 422
