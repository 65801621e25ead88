from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient

from api.app import OPERATIONS
from core import errors
from tasks.examples import EXAMPLES
from tasks.registry import TASKS
from tests.api.doubles import JobsDouble
from tests.api.test_media import FOX, JOBS, QUOTES, finished

HOOKS = "/api/v1/media/webhooks"


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
        responses = document["paths"][path][method]["responses"]
        response = responses[str(answer.status_code)]
        if "$ref" in response:
            response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        validator(document, response["content"]["application/json"]["schema"]).validate(answer.json())
        documented = {name.lower() for name in response["headers"]}
        assert documented <= {*answer.headers, "idempotency-replayed", "www-authenticate"}


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
