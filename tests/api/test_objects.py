from __future__ import annotations

from datetime import timedelta

import pytest
from starlette.testclient import TestClient

from core.clock import now
from storage import LocalStore

CONTENT = bytes(range(256)) * 400
KEY = "jobs/1/1/image.webp"


@pytest.fixture
def url(store: LocalStore) -> str:
    store.put(KEY, CONTENT, "image/webp")
    return store.url(KEY, expires_at=now() + timedelta(hours=1), filename="fox é.webp")


@pytest.fixture(autouse=True)
def _without_key(client: TestClient) -> None:
    del client.headers["x-api-key"]


def test_a_signed_url_gives_the_file(client: TestClient, store: LocalStore, url: str) -> None:
    artifact = store.stat(KEY)
    assert artifact is not None
    answer = client.get(url)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["etag"] == f'"{artifact.sha256}"'
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''fox%20%C3%A9.webp"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    private, _, seconds = answer.headers["cache-control"].partition(", max-age=")
    assert private == "private"
    assert 3590 <= int(seconds) <= 3600
    head = client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=0-9", 206, CONTENT[:10]),
        ("bytes=100-", 206, CONTENT[100:]),
        ("bytes=-5", 206, CONTENT[-5:]),
        ("bytes=0-999999999", 206, CONTENT),
        ("bytes=999999999-", 416, b""),
        ("bytes=9-0", 200, CONTENT),
        ("bytes=a-b", 200, CONTENT),
        ("bytes=", 200, CONTENT),
        ("bytes=-", 200, CONTENT),
        ("items=0-1", 200, CONTENT),
        ("nonsense", 200, CONTENT),
    ],
)
def test_a_range_is_served_or_ignored(client: TestClient, url: str, asked: str, status: int, content: bytes) -> None:
    answer = client.get(url, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, content)


def test_several_ranges_and_a_conditional_one(client: TestClient, url: str) -> None:
    several = client.get(url, headers={"Range": "bytes=0-1, 4-5"})
    assert several.status_code == 206
    assert several.headers["content-type"].startswith("multipart/byteranges")
    etag = client.head(url).headers["etag"]
    assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": etag}).status_code == 206
    assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200


@pytest.mark.parametrize(("known", "status"), [("{}", 304), ("W/{}", 304), ('"a", {}', 304), ("*", 304), ('"a"', 200)])
def test_a_known_file_is_not_sent_again(client: TestClient, url: str, known: str, status: int) -> None:
    etag = client.head(url).headers["etag"]
    answer = client.get(url, headers={"If-None-Match": known.format(etag)})
    assert answer.status_code == status
    assert answer.headers["etag"] == etag


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("image.webp?", "image.png?"),
        ("jobs/1/", "jobs/2/"),
        ("jobs/1/1", "jobs/1/../1"),
        ("jobs/1/1", "jobs/1/%2e%2e/1/1"),
        ("jobs/1/1", "%2fetc/passwd"),
        ("expires=", "expires=9"),
        ("filename=fox", "filename=wolf"),
        ("signature=", "signature=0"),
        ("signature=", "signature=%00"),
    ],
)
def test_a_changed_url_is_403(client: TestClient, url: str, old: str, new: str) -> None:
    assert old in url
    answer = client.get(url.replace(old, new, 1))
    assert answer.status_code in (403, 422)
    assert answer.status_code == 403 or "%00" in new
    assert CONTENT not in answer.content


@pytest.mark.parametrize("query", ["", "?expires=1", "?filename=a&signature=b", "?expires=x&filename=a&signature=b"])
def test_an_unsigned_url_is_403_whether_the_file_is_there_or_not(client: TestClient, url: str, query: str) -> None:
    there, not_there = client.get(f"/objects/{KEY}{query}"), client.get(f"/objects/nothing{query}")
    assert there.status_code == not_there.status_code == 403
    assert there.json() == not_there.json()


def test_an_expired_url_and_a_deleted_file_are_410(client: TestClient, store: LocalStore, url: str) -> None:
    old = store.url(KEY, expires_at=now() - timedelta(seconds=5), filename="fox.webp")
    assert (client.get(old).status_code, client.get(old).json()["error"]) == (410, "output_expired")
    store.delete(KEY)
    assert (client.get(url).status_code, client.get(url).json()["error"]) == (410, "output_expired")


def test_an_unknown_parameter_is_422(client: TestClient, url: str) -> None:
    assert client.get(f"{url}&download=1").status_code == 422
