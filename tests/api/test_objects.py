"""Downloads from every store, over HTTP in this process and over a real server."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.testclient import TestClient

from api import objects
from api.services import Services
from core.clock import now
from storage import LocalStore, S3Store, Store, StoreUnavailable
from tests.api.conftest import BASE_URL, SECRET
from tests.api.serving import served, until

CONTENT = bytes(range(256)) * 400
KEY = "jobs/1/1/image.webp"


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "storage", BASE_URL, SECRET)
    made: Store = request.getfixturevalue("make_s3")(base_url=BASE_URL)
    return made


@pytest.fixture
def url(store: Store) -> str:
    store.put(KEY, CONTENT, "image/webp")
    return url_of(store)


def url_of(store: Store, key: str = KEY, life: timedelta = timedelta(hours=1)) -> str:
    return store.url(key, expires_at=now() + life, filename="fox é.webp")


@pytest.fixture(autouse=True)
def _without_key(client: TestClient) -> None:
    del client.headers["x-api-key"]


def test_a_signed_url_gives_the_file(client: TestClient, store: Store, url: str) -> None:
    artifact = store.stat(KEY)
    assert artifact is not None
    answer = client.get(url)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["etag"] == f'"{artifact.sha256}"'
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''fox%20%C3%A9.webp"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox"
    private, _, seconds = answer.headers["cache-control"].partition(", max-age=")
    assert private == "private"
    assert 3590 <= int(seconds) <= 3600
    head = client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    described = dict(answer.headers)
    assert {**head.headers, **{name: described[name] for name in ("x-request-id", "cache-control")}} == described


@pytest.mark.parametrize("mime_type", ["text/plain", "text/html", "application/json"])
def test_the_type_is_the_files_own(client: TestClient, store: Store, mime_type: str) -> None:
    store.put(KEY, b"<script>", mime_type)
    assert client.get(url_of(store)).headers["content-type"] == mime_type


@pytest.mark.parametrize(
    ("asked", "first", "content"),
    [
        ("bytes=0-9", 0, CONTENT[:10]),
        ("bytes=100-", 100, CONTENT[100:]),
        ("bytes=102399-102399", 102_399, CONTENT[-1:]),
        ("bytes=-5", 102_395, CONTENT[-5:]),
        ("bytes=-999999999", 0, CONTENT),
        ("bytes=0-999999999", 0, CONTENT),
        ("Bytes = 0-9 ", 0, CONTENT[:10]),
    ],
)
def test_a_range_is_served(client: TestClient, url: str, asked: str, first: int, content: bytes) -> None:
    answer = client.get(url, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, content)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(content) - 1}/{len(CONTENT)}"
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["etag"] == client.head(url).headers["etag"]


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=9-0",
        "bytes=a-b",
        "bytes=",
        "bytes=-",
        "bytes=0-1, 4-5",
        "bytes=٠-٩",
        "bytes=0-" + "9" * 5000,
        "items=0-1",
        "nonsense",
        "",
    ],
)
def test_a_range_that_makes_no_sense_is_ignored(client: TestClient, url: str, asked: str) -> None:
    answer = client.get(url, headers=[(b"Range", asked.encode())])
    assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.mark.parametrize("asked", ["bytes=102400-", "bytes=999999999-", "bytes=102400-102500", "bytes=-0"])
def test_a_range_with_nothing_in_it_is_416(client: TestClient, url: str, asked: str) -> None:
    answer = client.get(url, headers={"Range": asked})
    assert (answer.status_code, answer.json()["error"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */102400"


def test_an_empty_file(client: TestClient, store: Store) -> None:
    store.put(KEY, b"", "text/plain")
    answer = client.get(url_of(store))
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    for asked in ("bytes=0-0", "bytes=-1"):
        assert client.get(url_of(store), headers={"Range": asked}).headers["content-range"] == "bytes */0"


def test_a_range_is_for_get_and_for_the_version_it_names(client: TestClient, url: str) -> None:
    etag = client.head(url).headers["etag"]
    assert client.head(url, headers={"Range": "bytes=0-1"}).status_code == 200
    for known, status in [(etag, 206), ('"other"', 200), (f"W/{etag}", 200), ("Mon, 23 Nov 2026 10:00:00 GMT", 200)]:
        answer = client.get(url, headers={"Range": "bytes=0-1", "If-Range": known})
        assert (answer.status_code, len(answer.content)) == (status, 2 if status == 206 else len(CONTENT))


@pytest.mark.parametrize(("known", "status"), [("{}", 304), ("W/{}", 304), ('"a", {}', 304), ("*", 304), ('"a"', 200)])
def test_a_known_file_is_not_sent_again(client: TestClient, url: str, known: str, status: int) -> None:
    etag = client.head(url).headers["etag"]
    for ask in (client.get, client.head):
        answer = ask(url, headers={"If-None-Match": known.format(etag), "Range": "bytes=5-"})
        assert answer.status_code in (status, 206 if status == 200 else status)
        assert answer.headers["etag"] == etag
        assert (answer.content == b"") is (status == 304 or ask == client.head)


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
    for ask in (client.get, client.head):
        answer = ask(url.replace(old, new, 1))
        assert answer.status_code in (403, 422)
        assert answer.status_code == 403 or "%00" in new
        assert CONTENT not in answer.content


@pytest.mark.parametrize("query", ["", "?expires=1", "?filename=a&signature=b", "?expires=x&filename=a&signature=b"])
def test_an_unsigned_url_is_403_whether_the_file_is_there_or_not(client: TestClient, url: str, query: str) -> None:
    there, not_there = client.get(f"/objects/{KEY}{query}"), client.get(f"/objects/nothing{query}")
    assert there.status_code == not_there.status_code == 403
    assert there.json() == not_there.json()


def test_an_expired_url_and_a_deleted_file_are_410(client: TestClient, store: Store, url: str) -> None:
    old = client.get(url_of(store, life=-timedelta(seconds=5)))
    assert (old.status_code, old.json()["error"]) == (410, "output_expired")
    store.delete(KEY)
    assert (client.get(url).status_code, client.get(url).json()["error"]) == (410, "output_expired")
    assert client.head(url).status_code == 410


def test_a_file_deleted_between_two_looks_is_410(
    client: TestClient, store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = store.stat(KEY)
    store.delete(KEY)
    monkeypatch.setattr(store, "stat", lambda key: artifact)
    for headers in ({}, {"Range": "bytes=0-1"}):
        assert client.get(url, headers=headers).status_code == 410


def test_an_unknown_parameter_is_422(client: TestClient, url: str) -> None:
    assert client.get(f"{url}&download=1").status_code == 422


def test_any_page_may_ask(client: TestClient, url: str) -> None:
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET"}
    answer = client.options(url, headers={**asked, "Access-Control-Request-Headers": "range, if-range"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "*")
    assert "Range, If-Range, If-None-Match" in answer.headers["access-control-allow-headers"]
    assert (
        "ETag, Accept-Ranges, Content-Range, Content-Length, Content-Disposition"
        in (answer.headers["access-control-expose-headers"])
    )


@pytest.mark.parametrize("method", ["stat", "open"])
def test_a_store_that_is_away_is_503(
    client: TestClient, store: Store, url: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fail(key: str) -> None:
        raise StoreUnavailable("SlowDown", "ask the operator of bucket-of-ours")

    monkeypatch.setattr(store, method, fail)
    answer = client.get(url)
    assert (answer.status_code, answer.json()["error"]) == (503, "storage_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert "bucket-of-ours" not in answer.text
    monkeypatch.undo()
    assert client.get(url).status_code == 200


# Sent on to the bucket


class TestRedirect:
    @pytest.fixture
    def store(self, make_s3: Callable[..., S3Store]) -> Store:
        return make_s3(base_url=BASE_URL, redirect=True)

    def test_a_download_is_sent_on_to_the_bucket(self, client: TestClient, store: Store, url: str) -> None:
        sent = client.get(url, follow_redirects=False)
        assert (sent.status_code, sent.headers["cache-control"]) == (307, "no-store")
        assert sent.headers["access-control-allow-origin"] == "*"
        there = httpx.get(sent.headers["location"], headers={"Range": "bytes=10-19"})
        assert (there.status_code, there.content) == (206, CONTENT[10:20])
        assert there.headers["content-disposition"] == "attachment; filename*=utf-8''fox%20%C3%A9.webp"

    def test_what_needs_no_content_is_answered_here(self, client: TestClient, store: Store, url: str) -> None:
        head = client.head(url, follow_redirects=False)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(CONTENT)))
        known = client.get(url, headers={"If-None-Match": head.headers["etag"]}, follow_redirects=False)
        assert known.status_code == 304
        assert client.get(url_of(store, "jobs/none"), follow_redirects=False).status_code == 410
        assert client.get(url.replace("fox", "wolf"), follow_redirects=False).status_code == 403


# Over a real server


class Watched(io.RawIOBase):
    """A stream that counts what is read of it, and breaks after `most` bytes."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self.stream = stream
        self.taken = 0
        self.most = most

    def read(self, size: int = -1, /) -> bytes:
        if self.taken >= self.most:
            raise StoreUnavailable("SlowDown", "wait")
        data = self.stream.read(size)
        self.taken += len(data)
        return data

    def close(self) -> None:
        self.stream.close()
        super().close()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """Every stream that is sent from now on."""
    found: list[Watched] = []
    real = objects._Download.__init__

    def watch(download: objects._Download, stream: BinaryIO, *arguments: Any) -> None:
        found.append(Watched(stream, 10_000_000))
        real(download, cast(BinaryIO, found[-1]), *arguments)

    monkeypatch.setattr(objects._Download, "__init__", watch)
    return found


def test_a_large_file_is_read_no_faster_than_it_is_taken_and_let_go_with_its_client(
    services: Services, store: Store, watched: list[Watched]
) -> None:
    size = 64 << 20
    store.put("jobs/large", os.urandom(1 << 20) * 64, "video/mp4")
    url = urlsplit(url_of(store, "jobs/large"))
    with served(services) as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
        (stream,) = watched
        taken = -1
        while taken != stream.taken:
            taken = stream.taken
            time.sleep(0.5)
        assert taken < size / 4
        assert not stream.closed
        client.close()
        until(lambda: stream.closed, "the stream closed")
        assert stream.taken < size / 4


def test_a_large_file_arrives_whole_and_in_parts(services: Services, store: Store, watched: list[Watched]) -> None:
    content = os.urandom(1 << 20) * 9 + b"end"
    store.put("jobs/large", content, "video/mp4")
    url = urlsplit(url_of(store, "jobs/large"))
    with served(services) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        path = f"{url.path}?{url.query}"
        assert client.get(path).content == content
        part = client.get(path, headers={"Range": "bytes=1000000-9000000"})
        assert (part.status_code, part.content) == (206, content[1_000_000:9_000_001])
        until(lambda: all(stream.closed for stream in watched), "both streams closed")
    assert len(watched) == 2


def test_a_store_that_breaks_under_a_download_cuts_it_off(
    services: Services, store: Store, watched: list[Watched]
) -> None:
    store.put("jobs/large", bytes(12_000_000), "video/mp4")
    url = urlsplit(url_of(store, "jobs/large"))
    with served(services) as port, pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
        httpx.get(f"http://127.0.0.1:{port}{url.path}?{url.query}", timeout=30)
    assert [stream.closed for stream in watched] == [True]
