from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import application
from api.services import Services
from core.ids import decode, encode, uuid7
from core.settings import Settings
from tests.api.doubles import KEY, OTHER_KEY, JobsDouble
from tests.api.test_media import FOX, JOBS, QUOTES, fields, finished

HOOKS = "/api/v1/media/webhooks"
SECRET = f"{HOOKS}/secret"


def test_a_secret_is_read_again_and_again_and_is_each_accounts_own(client: TestClient) -> None:
    first = client.get(SECRET).json()
    assert first["secret"].startswith("whsec_")
    assert first["previousUntil"] is None
    assert client.get(SECRET).json() == first
    assert client.get(SECRET, headers={"x-api-key": OTHER_KEY}).json()["secret"] != first["secret"]
    assert client.get(SECRET, headers={"x-api-key": ""}).status_code == 401


def test_a_rotation_happens_once_per_key_and_its_replay_keeps_the_secret_to_itself(client: TestClient) -> None:
    old = client.get(SECRET).json()["secret"]
    headers = {"X-Idempotency-Key": "turn-1"}
    made = client.post(SECRET, json={}, headers=headers)
    assert made.status_code == 200
    assert made.json()["secret"] not in (None, old)
    assert made.json()["previousUntil"] is not None
    again = client.post(SECRET, json={}, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == {**made.json(), "secret": None}
    assert client.get(SECRET).json()["secret"] == made.json()["secret"]
    assert client.post(SECRET, json={}).json()["secret"] != made.json()["secret"]


@pytest.mark.parametrize("sent", [{"secret": "whsec_mine"}, {"generation": 7}])
def test_a_secret_cannot_be_chosen(client: TestClient, sent: dict[str, Any]) -> None:
    assert client.post(SECRET, json=sent).status_code == 422


def test_a_notice_is_sent_again_and_listed(client: TestClient, jobs: JobsDouble) -> None:
    job_id = finished(client, jobs)
    assert client.get(f"{HOOKS}/deliveries", params={"jobId": job_id}).json() == {"deliveries": []}
    headers = {"X-Idempotency-Key": "again"}
    made = client.post(f"{HOOKS}/redeliver", json={"jobId": job_id}, headers=headers)
    assert made.status_code == 200
    delivery = made.json()
    assert decode("msg", delivery["deliveryId"]) is not None
    assert (delivery["jobId"], delivery["type"], delivery["state"]) == (job_id, "job.succeeded", "pending")
    assert delivery["url"] == "https://example.com/hook", "a token in the query stays out of the log"
    assert client.post(f"{HOOKS}/redeliver", json={"jobId": job_id}, headers=headers).json() == delivery
    assert client.get(f"{HOOKS}/deliveries", params={"jobId": job_id}).json() == {"deliveries": [delivery]}


def test_a_job_that_has_not_ended_has_nothing_to_tell(client: TestClient) -> None:
    job_id = client.post(JOBS, json=FOX).json()["jobId"]
    answer = client.post(f"{HOOKS}/redeliver", json={"jobId": job_id})
    assert (answer.status_code, answer.json()["error"]) == (409, "wrong_state")


@pytest.mark.parametrize("job_id", ["x", "job_x", encode("msg", uuid7()), encode("job", uuid7())])
def test_an_unknown_job_is_404(client: TestClient, job_id: str) -> None:
    assert client.post(f"{HOOKS}/redeliver", json={"jobId": job_id}).status_code == 404
    assert client.get(f"{HOOKS}/deliveries", params={"jobId": job_id}).status_code == 404


def test_another_accounts_job_is_404(client: TestClient, jobs: JobsDouble) -> None:
    job_id, headers = finished(client, jobs), {"x-api-key": OTHER_KEY}
    assert client.post(f"{HOOKS}/redeliver", json={"jobId": job_id}, headers=headers).status_code == 404
    assert client.get(f"{HOOKS}/deliveries", params={"jobId": job_id}, headers=headers).status_code == 404


@pytest.mark.parametrize("path", [JOBS, QUOTES])
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/hook",
        "http://localhost/hook",
        "http://10.0.0.1/hook",
        "http://[::1]/hook",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706433/hook",
        "http://0x7f.1/hook",
        "http://0177.0.0.1/hook",
        "http://[64:ff9b::7f00:1]/hook",
        "https://user:password@example.com/hook",
        "https://example.com:22/hook",
        "http://xn--a.com/",
        "ftp://example.com/hook",
        "example.com/hook",
    ],
)
def test_a_webhook_that_points_inside_is_refused_at_once(
    client: TestClient, jobs: JobsDouble, path: str, url: str
) -> None:
    answer = client.post(path, json={**FOX, "webhookUrl": url})
    assert answer.status_code == 422
    assert list(fields(answer)) == ["webhookUrl"]
    assert not jobs.submissions


def test_an_operator_may_allow_a_private_receiver(services: Services) -> None:
    changed = replace(services, settings=Settings(**{**services.settings.model_dump(), "egress_allow": "10.1.0.0/16"}))
    with TestClient(application(changed), "https://api.example.test", headers={"x-api-key": KEY}) as client:
        for host, status in (("10.1.2.3", 202), ("10.2.2.3", 422)):
            assert client.post(JOBS, json={**FOX, "webhookUrl": f"http://{host}/hook"}).status_code == status
