from __future__ import annotations

import hashlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import httpx
import pytest
from pydantic import SecretStr

import storage.s3
from storage.base import Artifact, InvalidKey, MissingObject, ObjectExists, StoreUnavailable
from storage.s3 import MAX_URL_SECONDS, PART_BYTES, S3Store
from tests.storage import swift_server
from tests.storage.conftest import BUCKET, access, client_of, needs

KEY = "jobs/a/1/image.webp"
PICTURE = os.urandom(100_000)
MINUTE = timedelta(minutes=1)

Make = Callable[..., S3Store]


def url_of(store: S3Store, life: timedelta = MINUTE, filename: str = "image.webp") -> str:
    url = store.direct_url(KEY, expires_at=datetime.now(UTC) + life, filename=filename)
    assert url is not None
    return url


def where(store: S3Store) -> dict[str, str]:
    """Bucket and key of `KEY`, for boto3 itself."""
    return {"Bucket": BUCKET, "Key": store._prefix + KEY}


# Presigned URLs


@pytest.fixture
def s3(make_s3: Make) -> S3Store:
    """An empty store that sends callers on to the bucket."""
    return make_s3(redirect=True)


def test_callers_are_sent_to_the_bucket_only_when_the_operator_says_so(make_s3: Make) -> None:
    assert make_s3().direct_url(KEY, expires_at=datetime.now(UTC) + MINUTE, filename="a") is None


@pytest.mark.parametrize(
    ("filename", "disposition"),
    [
        ("image.webp", 'attachment; filename="image.webp"'),
        ('q"uote.png', "attachment; filename*=utf-8''q%22uote.png"),
        ("тест 1.webp", "attachment; filename*=utf-8''%D1%82%D0%B5%D1%81%D1%82%201.webp"),
        ("a&b=c;d?#%+.png", "attachment; filename*=utf-8''a%26b%3Dc%3Bd%3F%23%25%2B.png"),
    ],
)
def test_a_url_serves_the_file_without_a_credential(s3: S3Store, filename: str, disposition: str) -> None:
    s3.put(KEY, PICTURE, "image/webp")
    answer = httpx.get(url_of(s3, filename=filename))
    assert (answer.status_code, answer.content) == (200, PICTURE)
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["content-disposition"] == disposition


@pytest.mark.parametrize(
    ("asked", "served"),
    [("bytes=10-19", slice(10, 20)), ("bytes=-5", slice(-5, None)), ("bytes=99990-", slice(99_990, None))],
)
def test_a_url_serves_ranges(s3: S3Store, asked: str, served: slice) -> None:
    s3.put(KEY, PICTURE, "image/webp")
    answer = httpx.get(url_of(s3), headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, PICTURE[served])


@pytest.mark.parametrize(
    ("found", "instead"),
    [
        ("Signature=", "Signature=0"),
        ("image.webp?", "other.webp?"),
        ("Expires=60", "Expires=6000"),
        ("filename%3D%22image", "filename%3D%22virus"),
    ],
)
def test_a_changed_url_is_refused(s3: S3Store, found: str, instead: str) -> None:
    s3.put(KEY, PICTURE, "image/webp")
    s3.put("jobs/a/1/other.webp", b"other", "image/webp")
    url = url_of(s3)
    assert found in url
    assert httpx.get(url.replace(found, instead)).status_code == 403
    assert httpx.get(url).status_code == 200


def test_a_url_opens_nothing_but_reading(s3: S3Store) -> None:
    s3.put(KEY, PICTURE, "image/webp")
    assert httpx.put(url_of(s3), content=b"evil").status_code == 403
    assert httpx.delete(url_of(s3)).status_code == 403
    assert httpx.get(url_of(s3).partition("?")[0]).status_code in (400, 403)
    assert s3.read(KEY) == PICTURE


@pytest.mark.parametrize("life", [timedelta(seconds=1), timedelta(hours=-1)])
def test_an_expired_url_is_refused(s3: S3Store, life: timedelta) -> None:
    s3.put(KEY, PICTURE, "image/webp")
    url = url_of(s3, life)
    time.sleep(3)
    assert httpx.get(url).status_code == 403


def test_a_url_holds_no_secret(s3: S3Store) -> None:
    assert swift_server.KEY not in url_of(s3)


def test_a_url_that_nobody_could_promise_is_refused(s3: S3Store) -> None:
    for life in (timedelta(seconds=MAX_URL_SECONDS), timedelta(days=400)):
        assert "X-Amz-Expires=604800" in url_of(s3, life)
    for filename in ["", "a/b", "a\r\nX: y", "a" * 201]:
        with pytest.raises(ValueError, match="no file name"):
            url_of(s3, MINUTE, filename)
    with pytest.raises(ValueError, match="time zone"):
        s3.direct_url(KEY, expires_at=datetime(2026, 1, 1), filename="a")
    with pytest.raises(InvalidKey):
        s3.direct_url("../x", expires_at=datetime.now(UTC), filename="a")


@pytest.mark.parametrize(
    ("bucket", "begin"),
    [
        ("artifacts", "https://artifacts.s3.eu-west-1.amazonaws.com/ours/jobs/a/1/image.webp?"),
        ("my.artifacts", "https://s3.eu-west-1.amazonaws.com/my.artifacts/ours/jobs/a/1/image.webp?"),
    ],
)
def test_amazons_urls_name_the_region(bucket: str, begin: str) -> None:
    """A young bucket redirects from the global name to the region's, where the signature would be wrong."""
    needs("boto3")
    store = S3Store(
        bucket, region="eu-west-1", access_key="a", secret_key=SecretStr("b"), prefix="ours/", redirect=True
    )
    assert url_of(store).startswith(begin)


# What arrives


@pytest.mark.parametrize("size", [PART_BYTES, PART_BYTES + 1, 20 << 20])
def test_large_objects_travel_in_parts(s3: S3Store, size: int) -> None:
    data = os.urandom(size)
    artifact = s3.put(KEY, data, "video/mp4")
    assert artifact == Artifact(KEY, hashlib.sha256(data).hexdigest(), size, "video/mp4") == s3.stat(KEY)
    assert s3.read(KEY) == data
    parts = -(-size // PART_BYTES)
    assert client_of(s3).head_object(**where(s3))["ETag"].endswith(f'-{parts}"') == (parts > 1)
    across = httpx.get(url_of(s3), headers={"Range": f"bytes={PART_BYTES - 5}-{PART_BYTES + 4}"})
    assert across.content == data[PART_BYTES - 5 : PART_BYTES + 5]


@contextmanager
def on_the_way(store: S3Store, operation: str, change: Callable[..., None]) -> Iterator[None]:
    """Between signing and sending every `operation`, do `change` to the request."""
    events = client_of(store).meta.events
    events.register(f"before-send.s3.{operation}", change)
    yield
    events.unregister(f"before-send.s3.{operation}", change)


def spoil(request: Any, **_: object) -> None:
    """Replace a body by another of the same length."""
    body = request.body
    request.body = b"!" * len(body if isinstance(body, bytes) else body.read())


@pytest.mark.parametrize(("operation", "size"), [("PutObject", 1000), ("UploadPart", 20 << 20)])
def test_what_changes_on_the_way_is_refused_and_leaves_the_old(s3: S3Store, operation: str, size: int) -> None:
    s3.put(KEY, b"old", "image/webp")
    with on_the_way(s3, operation, spoil), pytest.raises(StoreUnavailable):
        s3.put(KEY, os.urandom(size), "video/mp4")
    assert s3.read(KEY) == b"old"
    assert client_of(s3).list_multipart_uploads(Bucket=BUCKET, Prefix=s3._prefix).get("Uploads", []) == []


def test_a_large_object_that_must_not_replace_another_is_one_conditional_put(s3: S3Store) -> None:
    data = os.urandom(PART_BYTES + 1)
    s3.put(KEY, data, "video/mp4", once=True)
    assert "-" not in client_of(s3).head_object(**where(s3))["ETag"]
    with pytest.raises(ObjectExists):
        s3.put(KEY, data[::-1], "video/mp4", once=True)
    assert s3.read(KEY) == data


def test_an_own_object_counts_as_anothers_when_the_first_answer_was_lost(s3: S3Store) -> None:
    from botocore.exceptions import ConnectionClosedError

    lost: list[int] = []

    def lose(request: Any, **_: object) -> None:
        if not lost:
            lost.append(client_of(s3)._endpoint.http_session.send(request).status_code)
            request.reset_stream()
            raise ConnectionClosedError(endpoint_url="the test")

    with on_the_way(s3, "PutObject", lose), pytest.raises(ObjectExists):
        s3.put(KEY, b"ours", "image/webp", once=True)
    assert lost == [200]
    assert s3.read(KEY) == b"ours"


KILLED_WRITER = """
import os, sys
from pydantic import SecretStr
from storage.s3 import S3Store
endpoint, user, secret, prefix, key = sys.argv[1:]
access = {"access_key": user, "secret_key": SecretStr(secret)}
store = S3Store("tests", endpoint_url=endpoint, region="us-east-1", prefix=prefix, **access)
store._client.meta.events.register("before-send.s3.CompleteMultipartUpload", lambda **_: os._exit(9))
store.put(key, b"x" * (20 << 20), "video/mp4")
"""


def test_a_writer_killed_before_the_end_leaves_the_old(s3: S3Store, swift: str) -> None:
    s3.put(KEY, b"old", "image/webp")
    command = [sys.executable, "-c", KILLED_WRITER, swift, swift_server.USER, swift_server.KEY, s3._prefix, KEY]
    assert subprocess.run(command, check=False, timeout=60).returncode == 9
    assert s3.read(KEY) == b"old"
    assert list(s3.keys()) == [KEY]


def test_the_digest_is_found_again_when_a_tool_dropped_it(s3: S3Store) -> None:
    put = s3.put(KEY, PICTURE, "image/webp")
    client_of(s3).put_object(**where(s3), Body=PICTURE, ContentType="image/webp")
    assert s3.stat(KEY) == put


def test_what_is_not_ours_is_neither_listed_nor_deleted(s3: S3Store, make_s3: Make) -> None:
    s3.put(KEY, b"ours", "image/webp")
    beside = make_s3(prefix="test-beside/")
    beside.put(KEY, b"beside", "image/webp")
    foreign = {f"{s3._prefix}jobs/a/", f"{s3._prefix}jobs/a/b c", f"{s3._prefix}jobs/a/.hidden"}
    for name in foreign:
        client_of(s3).put_object(Bucket=BUCKET, Key=name, Body=b"")
    assert list(s3.keys()) == [KEY]
    s3.delete_prefix("jobs/")
    left = client_of(s3).list_objects_v2(Bucket=BUCKET, Prefix=s3._prefix)["Contents"]
    assert {item["Key"] for item in left} == foreign
    assert beside.read(KEY) == b"beside"


def test_more_keys_than_a_page_holds(s3: S3Store) -> None:
    names = {f"jobs/a/{number}" for number in range(2 * swift_server.LISTING + 1)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: s3.put(name, b"x", "image/webp"), names))
    assert set(s3.keys("jobs/a/")) == names
    s3.delete_prefix("jobs/a/")
    assert list(s3.keys()) == []


@pytest.mark.parametrize("prefix", ["a", "/", "../", "a//", "a b/"])
def test_a_prefix_that_is_none_is_refused(make_s3: Make, prefix: str) -> None:
    with pytest.raises(InvalidKey):
        make_s3(prefix=prefix)


# What fails


def every_use(store: S3Store) -> list[Callable[[], object]]:
    return [
        lambda: store.put(KEY, b"x", "image/webp"),
        lambda: store.put(KEY, bytes(PART_BYTES + 1), "image/webp"),
        lambda: store.read(KEY),
        lambda: store.open(KEY),
        lambda: store.open_range(KEY, 0, 9),
        lambda: store.put(KEY, b"x", "image/webp", once=True),
        lambda: store.stat(KEY),
        lambda: store.delete(KEY),
        lambda: store.delete_prefix("jobs/"),
        lambda: list(store.keys()),
        lambda: store.expire_after(1, prefix="jobs/"),
    ]


def test_a_wrong_secret_is_named_and_not_told(make_s3: Make) -> None:
    for use in every_use(make_s3(secret_key=SecretStr("hush-hush"))):
        with pytest.raises(StoreUnavailable, match="KILLATAMATA_S3_SECRET_KEY") as refusal:
            use()
        told = "".join(traceback.format_exception(refusal.value)) + repr(refusal.value)
        assert refusal.value.reason in {"SignatureDoesNotMatch", "403"}
        assert "hush-hush" not in told
        assert "AWS4-HMAC-SHA256" not in told


def test_no_credentials_at_all_are_named(make_s3: Make) -> None:
    store = make_s3(access_key=None, secret_key=None, redirect=True)
    uses = every_use(store)
    uses.append(lambda: url_of(store))
    for use in uses:
        with pytest.raises(StoreUnavailable, match=r"NoCredentialsError.*KILLATAMATA_S3_ACCESS_KEY"):
            use()


def test_credentials_are_found_as_the_aws_tools_find_them(make_s3: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", swift_server.USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", swift_server.KEY)
    storage.s3._connect.cache_clear()
    make_s3(access_key=None, secret_key=None).put(KEY, b"x", "image/webp")
    storage.s3._connect.cache_clear()
    assert make_s3().read(KEY) == b"x"


def test_a_missing_bucket_is_named(make_s3: Make) -> None:
    store = make_s3("no-such-bucket")
    for use in (lambda: store.put(KEY, b"x", "image/webp"), lambda: store.read(KEY), lambda: list(store.keys())):
        with pytest.raises(StoreUnavailable, match=r"NoSuchBucket.*KILLATAMATA_S3_BUCKET"):
            use()


def test_a_server_that_is_not_there_is_named_soon(make_s3: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = make_s3(endpoint_url=f"http://127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"EndpointConnectionError.*KILLATAMATA_S3_ENDPOINT_URL"):
        store.put(KEY, b"x", "image/webp")
    assert time.monotonic() - began < 20


def test_a_server_that_never_answers_is_left_after_a_few_attempts(
    make_s3: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.s3, "_READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = make_s3(endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StoreUnavailable, match="ReadTimeoutError"):
            store.read(KEY)
        silent.settimeout(1)
        connections = [silent.accept()[0] for _ in range(storage.s3._ATTEMPTS)]
        with pytest.raises(TimeoutError):
            silent.accept()
    for connection in connections:
        connection.close()


class Faulty(BaseHTTPRequestHandler):
    """Stands in for a server that breaks: it gives `answers` one after the other, cutting off what is longer."""

    answers: ClassVar[list[tuple[int, bytes, int]]] = []

    def do_GET(self) -> None:
        status, body, promised = self.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def faulty(make_s3: Make) -> Iterator[S3Store]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield make_s3(endpoint_url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def test_a_passing_fault_is_got_over(faulty: S3Store) -> None:
    Faulty.answers = [(503, b"", 0), (500, b"<html>not S3</html>", 19), (200, b"picture", 7)]
    assert faulty.read(KEY) == b"picture"


def test_a_lasting_fault_is_told(faulty: S3Store) -> None:
    Faulty.answers = [(503, b"", 0)] * storage.s3._ATTEMPTS
    with pytest.raises(StoreUnavailable, match=r"503.*whether the server is well"):
        faulty.read(KEY)
    assert Faulty.answers == []


def test_half_an_object_is_no_object(faulty: S3Store) -> None:
    Faulty.answers = [(200, b"x" * 3_000_000, 5_000_000)] * 2
    with pytest.raises(StoreUnavailable):
        faulty.read(KEY)
    with faulty.open(KEY) as stream:
        assert stream.read(1_000_000) == b"x" * 1_000_000
        with pytest.raises(StoreUnavailable):
            stream.read(4_000_000)


def test_a_server_that_ignores_ranges_is_not_believed(faulty: S3Store) -> None:
    Faulty.answers = [(200, b"0123456789", 10)]
    with pytest.raises(StoreUnavailable, match="NoContentRange"):
        faulty.open_range(KEY, 5, 8)


def test_an_answer_that_is_no_s3_is_told_in_few_words(faulty: S3Store) -> None:
    body = b"<Error><Code>" + b"x" * 100_000 + b"</Code></Error>"
    Faulty.answers = [(418, body, len(body))]
    with pytest.raises(StoreUnavailable) as refusal:
        faulty.read(KEY)
    assert len(str(refusal.value)) < 500


def test_an_unavailable_store_is_told_across_processes() -> None:
    error = StoreUnavailable("SlowDown", "wait")
    received = pickle.loads(pickle.dumps(error))
    assert (type(received), str(received), received.reason) == (StoreUnavailable, str(error), "SlowDown")


def test_a_stream_may_be_left_unread(s3: S3Store) -> None:
    s3.put(KEY, os.urandom(500_000), "video/mp4")
    for _ in range(storage.s3._CONNECTIONS + 2):
        with s3.open(KEY) as stream:
            assert len(stream.read(10)) == 10
    s3.delete(KEY)
    with pytest.raises(MissingObject):
        s3.open(KEY)


# The second net


def rules(store: S3Store) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client_of(store).get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    return found


def test_the_server_expires_what_the_sweep_forgets(moto: S3Store) -> None:
    foreign = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    assert moto.expire_after(9, prefix="jobs/")
    client_of(moto).put_bucket_lifecycle_configuration(
        Bucket=BUCKET, LifecycleConfiguration={"Rules": [*rules(moto), foreign]}
    )
    assert moto.expire_after(10, prefix="jobs/")
    assert moto.expire_after(2, prefix="in/")
    found = {rule["Filter"]["Prefix"]: rule for rule in rules(moto)}
    assert {prefix: rule["Expiration"] for prefix, rule in found.items()} == {
        "logs/": {"Days": 3},
        "ours/jobs/": {"Days": 10},
        "ours/in/": {"Days": 2},
    }
    assert found["ours/jobs/"]["Status"] == "Enabled"
    assert found["ours/jobs/"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert len(rules(moto)) == 3


def test_a_server_without_lifecycles_says_so(s3: S3Store) -> None:
    assert not s3.expire_after(9, prefix="jobs/")


def test_a_lifecycle_that_would_delete_all_or_at_once_is_refused(s3: S3Store) -> None:
    for days, prefix in [(0, "jobs/"), (-1, "jobs/"), (9, ""), (9, "jobs"), (9, "../")]:
        with pytest.raises(ValueError, match=r"at least 1|is no key"):
            s3.expire_after(days, prefix=prefix)


# One client


def test_a_process_has_one_client(make_s3: Make) -> None:
    assert client_of(make_s3()) is client_of(make_s3(prefix="other/"))
    assert client_of(make_s3()) is not client_of(make_s3(secret_key=SecretStr("other")))


def test_stores_may_be_opened_in_many_threads_at_once(swift: str) -> None:
    storage.s3._connect.cache_clear()

    def use(number: int) -> bytes:
        store = S3Store(BUCKET, **access(swift), prefix="test-threads/")
        store.put(f"n/{number}", b"%d" % number, "text/plain")
        return store.read(f"n/{number}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == [b"%d" % number for number in range(8)]


def test_boto3_is_not_loaded_for_the_local_store(tmp_path: Any) -> None:
    program = (
        "import sys; from core.settings import Settings; from storage import open_store\n"
        "store = open_store(Settings(), 'http://x'); store.put('a', b'x', 'image/webp')\n"
        "sys.exit(bool({'boto3', 'botocore'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "KILLATAMATA_DATA_DIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 0
