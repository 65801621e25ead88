from __future__ import annotations

import copy
import json
from datetime import timedelta
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient

from api.app import OPERATIONS
from core import errors
from core.clock import now
from storage import LocalStore
from tasks.examples import EXAMPLES
from tasks.registry import TASKS
from tests.api.doubles import JobsDouble
from tests.api.test_media import FOX, JOBS, QUOTES, finished

HOOKS = "/api/v1/media/webhooks"
ENTRIES, OBJECT = "/api/v1/billing/entries", "/objects/{key}"
EVERYWHERE = {
    "access-control-allow-origin",
    "access-control-expose-headers",
    "cache-control",
    "content-length",
    "content-type",
}
"""Headers of answers that need no word in the document; Content-Type is said with the content."""


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    answer = client.get("/openapi.json", headers={"x-api-key": ""})
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


def test_the_check_above_can_fail(document: dict[str, Any]) -> None:
    broken = copy.deepcopy(document)
    broken["paths"][JOBS]["get"]["parameters"][0]["in"] = "nowhere"
    assert not OpenAPIV31SpecValidator(broken).is_valid()


def test_every_route_is_there_and_no_other(document: dict[str, Any]) -> None:
    listed = {(method.upper(), path) for path, entries in document["paths"].items() for method in entries}
    assert listed == {(each.method, each.path.replace(":path", "")) for each in OPERATIONS}
    names = [entry["operationId"] for entries in document["paths"].values() for entry in entries.values()]
    assert len(set(names)) == len(names)


def test_every_error_has_its_schema_and_code(document: dict[str, Any]) -> None:
    answered = {error for each in OPERATIONS for error in each.errors} | {errors.MethodNotAllowed}
    classes = {value for value in vars(errors).values() if isinstance(value, type)}
    assert answered == {each for each in classes if issubclass(each, errors.ApiError)} - {errors.ApiError}
    for error in answered:
        schema = document["components"]["schemas"][error.__name__]
        assert schema["properties"]["error"]["const"] == error.code
        assert schema["description"]


def test_public_routes_ask_for_no_key(document: dict[str, Any]) -> None:
    assert document["security"] == [{"bearer": []}, {"apiKey": []}]
    public = {path for path, entries in document["paths"].items() if entries.get("get", {}).get("security") == []}
    assert public == {"/api/v1/health", "/openapi.json", "/objects/{key}"}


@pytest.mark.parametrize("path", [JOBS, QUOTES])
def test_every_task_is_a_form_with_examples_that_work(document: dict[str, Any], client: TestClient, path: str) -> None:
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert set(content["schema"]["discriminator"]["mapping"]) == set(TASKS)
    assert len(content["schema"]["oneOf"]) == len(TASKS)
    checked = validator(document, content["schema"])
    values = [{"task": task, "input": given} for task, inputs in EXAMPLES.items() for given in inputs]
    key = json.JSONEncoder(sort_keys=True).encode
    assert sorted(map(key, (each["value"] for each in content["examples"].values()))) == sorted(map(key, values))
    for example in content["examples"].values():
        checked.validate(example["value"])
        assert client.post(path, json=example["value"]).status_code in (200, 202)


@pytest.mark.parametrize(
    ("sent", "fits"),
    [
        (FOX, True),
        ({**FOX, "maxCostUsd": "0.05", "priority": "batch", "startTimeoutSeconds": 60}, True),
        ({**FOX, "maxCostUsd": 0.05, "priority": None}, True),
        ({**FOX, "maxCostUsd": "free"}, False),
        ({**FOX, "webhookUrl": "https://example.com", "cancelAfterSeconds": 9}, True),
        ({**FOX, "webhookUrl": "example.com"}, False),
        ({**FOX, "task": "image.generat"}, False),
        ({"task": "image.generate"}, False),
        ({"task": "image.generate", "input": {}}, False),
        ({"task": "image.generate", "input": {"prompt": "x", "seed": -1}}, False),
    ],
)
def test_the_schema_and_the_service_agree(
    document: dict[str, Any], client: TestClient, sent: dict[str, Any], fits: bool
) -> None:
    schema = document["paths"][JOBS]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert validator(document, schema).is_valid(sent) is fits
    assert (client.post(JOBS, json=sent).status_code == 202) is fits


def test_what_is_answered_fits_its_schema(document: dict[str, Any], client: TestClient, jobs: JobsDouble) -> None:
    failure = {"code": "x", "message": "y", "retryable": True}
    job = {"jobId": finished(client, jobs), "includeDetails": "1"}
    failed = {"jobId": finished(client, jobs, state="failed", failure=failure)}
    quote = {"task": "image.generate", "input": {"prompt": "x", "width": 1000, "height": 1000}}
    sent: list[tuple[str, str, dict[str, Any]]] = [
        ("get", "/api/v1/health", {"params": {"deep": "1"}}),
        ("get", "/api/v1/balance", {}),
        ("get", "/api/v1/balance", {"headers": {"x-api-key": "no"}}),
        ("post", "/api/v1/keys", {"json": {"label": "x"}}),
        ("get", "/api/v1/keys", {}),
        ("post", "/api/v1/keys/revoke", {"json": {"keyPrefix": "made0000"}}),
        ("post", "/api/v1/keys/revoke", {"json": {"keyPrefix": "gone0000"}}),
        ("post", QUOTES, {"json": quote}),
        ("post", JOBS, {"json": quote}),
        ("post", JOBS, {"json": {}}),
        ("post", JOBS, {"json": quote, "headers": {"x-api-key": "no"}}),
        ("post", JOBS, {"content": b"{"}),
        ("post", JOBS, {"json": {**FOX, "maxCostUsd": 0}}),
        ("get", JOBS, {"params": job}),
        ("get", JOBS, {"params": failed}),
        ("delete", JOBS, {"params": failed}),
        ("get", JOBS, {"params": {"jobId": "x"}}),
        ("get", f"{HOOKS}/secret", {}),
        ("post", f"{HOOKS}/secret", {"json": {}}),
        ("post", f"{HOOKS}/redeliver", {"json": failed}),
        ("get", f"{HOOKS}/deliveries", {"params": failed}),
        ("get", f"{HOOKS}/deliveries", {"params": {"jobId": "x"}}),
    ]
    for method, path, request in sent:
        answer = client.request(method, path, **request)
        response = described(document, method, path, answer)
        validator(document, response["content"]["application/json"]["schema"]).validate(answer.json())
        documented = {name.lower() for name in response["headers"]}
        assert documented <= {*answer.headers, "idempotency-replayed", "www-authenticate", "retry-after"}


def described(document: dict[str, Any], method: str, path: str, answer: Any) -> dict[str, Any]:
    """What the document says of `answer`, which has no header that it leaves out."""
    response: dict[str, Any] = document["paths"][path][method]["responses"][str(answer.status_code)]
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    known = {name.lower() for name in response["headers"]} | EVERYWHERE
    assert set(answer.headers) <= known, f"{method} {path} {answer.status_code}"
    return response


def test_the_headers_of_a_live_job_and_of_replays_are_documented(document: dict[str, Any], client: TestClient) -> None:
    job = {"jobId": client.post(JOBS, json=FOX).json()["jobId"]}
    read = client.get(JOBS, params=job)
    assert "retry-after" in read.headers
    described(document, "get", JOBS, read)
    first, second = (client.delete(JOBS, params=job, headers={"X-Idempotency-Key": "once"}) for _ in range(2))
    assert (first.status_code, second.headers["idempotency-replayed"]) == (200, "true")
    for method, path, header in [
        ("delete", JOBS, "Idempotency-Replayed"),
        ("delete", JOBS, "Retry-After"),
        ("delete", "/api/v1/media/outputs", "Idempotency-Replayed"),
    ]:
        responses = document["paths"][path][method]["responses"]
        assert responses["200"]["headers"][header] == {"$ref": f"#/components/headers/{header}"}
    described(document, "delete", JOBS, first)
    described(document, "delete", JOBS, second)


def test_the_name_of_a_csv_is_documented(document: dict[str, Any], client: TestClient) -> None:
    answer = client.get(ENTRIES, params={"format": "csv"})
    assert "content-disposition" in answer.headers
    assert "text/csv" in described(document, "get", ENTRIES, answer)["content"]


def test_every_answer_of_a_download_is_documented(
    document: dict[str, Any], client: TestClient, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    etag = f'"{store.put("jobs/1/1/fox.webp", b"0123456789", "image/webp").sha256}"'
    url = store.url("jobs/1/1/fox.webp", expires_at=now() + timedelta(hours=1), filename="fox.webp")
    gone = store.url("jobs/none", expires_at=now() + timedelta(hours=1), filename="fox.webp")
    asked: list[tuple[int, str, dict[str, str]]] = [
        (200, url, {}),
        (206, url, {"Range": "bytes=2-3", "If-Range": etag}),
        (304, url, {"If-None-Match": etag}),
        (403, url.replace("fox", "wolf"), {}),
        (410, gone, {}),
        (416, url, {"Range": "bytes=10-"}),
        (422, f"{url}&download=1", {}),
    ]
    entry = document["paths"][OBJECT]["get"]
    sent = {name for _, _, headers in asked for name in headers}
    assert sent == {each["name"] for each in entry["parameters"] if each["in"] == "header"}
    for status, address, headers in asked:
        answer = client.get(address, headers=headers)
        assert answer.status_code == status
        response = described(document, "get", OBJECT, answer)
        assert {name.lower() for name in response["headers"]} <= set(answer.headers)
        assert ("content" in response) is bool(answer.content)
    monkeypatch.setattr(store, "direct_url", lambda key, **_: "https://bucket.example/fox")
    answer = client.get(url, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "https://bucket.example/fox")
    assert "content" not in described(document, "get", OBJECT, answer)
    assert set(entry["responses"]) == {*(str(status) for status, _, _ in asked), "307", "500", "503"}


def test_the_headers_of_errors_are_documented(document: dict[str, Any]) -> None:
    responses = document["components"]["responses"]
    for error, header in [
        ("MethodNotAllowed", "Allow"),
        ("RangeNotSatisfiable", "Content-Range"),
        ("Unauthorized", "WWW-Authenticate"),
        ("UploadConflict", "Retry-After"),
        ("NotFound", "RateLimit"),
    ]:
        assert header in responses[error]["headers"]
    assert "RateLimit" not in document["paths"][OBJECT]["get"]["responses"]["403"]["headers"]


def test_the_opt_in_hint_reaches_agents(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["ImageGenerateInput"]
    assert schema["properties"]["highDetail"]["x-agent-hint"] == "opt-in"


def test_query_fields_are_documented(document: dict[str, Any]) -> None:
    parameters = {each["name"]: each for each in document["paths"][JOBS]["get"]["parameters"]}
    assert parameters["jobId"]["required"] is False
    assert parameters["limit"]["schema"] == {"default": 20, "maximum": 100, "minimum": 1, "type": "integer"}
    assert parameters["includeDetails"]["schema"]["type"] == "boolean"
    names = [each["name"] for each in document["paths"][JOBS]["post"]["parameters"]]
    assert names == ["strict", "Prefer", "X-Idempotency-Key"]


def test_a_submit_may_be_answered_by_the_finished_job(document: dict[str, Any]) -> None:
    responses = document["paths"][JOBS]["post"]["responses"]
    assert responses["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/JobAnswer"}
    assert responses["202"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/AcceptedAnswer"}
    assert "Preference-Applied" in responses["200"]["headers"]
    assert {"Preference-Applied", "Location"} & set(responses["202"]["headers"]) == {"Location"}
    assert "Location" not in responses["200"]["headers"]


def test_a_stream_of_events_is_documented(document: dict[str, Any]) -> None:
    entry = document["paths"][f"{JOBS}/events"]["get"]
    event = entry["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert event["required"] == ["id", "event", "data"]
    assert event["properties"]["event"]["enum"] == ["state", "stage", "progress", "preview", "cancel_requested"]
    assert "content" not in entry["responses"]["204"]
    assert entry["security"] == [{"bearer": []}, {"apiKey": []}, {"eventToken": []}]
    places = {each["name"]: each["in"] for each in entry["parameters"]}
    assert places == {"jobId": "query", "lastEventId": "query", "Last-Event-ID": "header"}
