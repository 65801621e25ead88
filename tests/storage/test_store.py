"""What every store does, whichever one it is: another store joins as one more parameter of the fixture."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import parse_qsl, urlsplit

import pytest

from storage.base import MAX_KEY_CHARACTERS, Artifact, InvalidKey, MissingObject, ObjectExists, Store, UploadPromise
from storage.local import LocalStore
from storage.signing import UrlSigner
from tests.storage.conftest import BASE_URL, SECRET

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
KEY = "jobs/job_01h455vb4pex5vsknk084sn02q/3/image.webp"

BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/..",
    "a/./b",
    ".hidden",
    "a/.hidden",
    "a\\b",
    "a b",
    "a\n",
    "a\x00b",
    "a@json",
    "a%2f..%2fb",
    "ä",
    "a?b",
    "~/a",
    "-a",
    "a/" * 300 + "a",
    "a" * 129,
    "a" * 1_000_000,
]


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    made: dict[str, Callable[[], Store]] = {
        "local": lambda: LocalStore(tmp_path / "store", BASE_URL, SECRET),
        "s3": lambda: request.getfixturevalue("s3"),
    }
    return made[request.param]()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("data", [b"", b"\x00", b"picture", bytes(range(256)) * 5000])
def test_what_is_put_is_read(store: Store, data: bytes) -> None:
    artifact = store.put(KEY, data, "image/webp")
    assert artifact == Artifact(KEY, sha256(data), len(data), "image/webp")
    assert store.stat(KEY) == artifact
    assert store.read(KEY) == data
    with store.open(KEY) as stream:
        assert stream.read() == data


@pytest.mark.parametrize("kind", ["bytes", "path", "stream", "pipe"])
def test_ten_megabytes_from_anywhere(store: Store, kind: str, tmp_path: Path) -> None:
    data = os.urandom(10_000_000)
    path = tmp_path / "source"
    path.write_bytes(data)
    with path.open("rb") as stream:
        source = {"bytes": data, "path": path, "stream": stream, "pipe": Pipe(data)}[kind]
        artifact = store.put(KEY, cast("bytes | Path | BinaryIO", source), "video/mp4")
    assert (artifact.sha256, artifact.bytes) == (sha256(data), len(data))
    assert store.read(KEY) == data
    assert path.read_bytes() == data


class Pipe:
    """A stream that gives fewer bytes than asked for, cannot seek, and has no length."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(min(size, 77_777))


def test_a_stream_is_read_from_where_it_stands(store: Store) -> None:
    stream = io.BytesIO(b"headpicture")
    stream.seek(4)
    store.put(KEY, stream, "image/webp")
    assert store.read(KEY) == b"picture"


def test_putting_again_replaces(store: Store) -> None:
    store.put(KEY, b"old and longer", "image/png")
    store.put(KEY, b"new", "image/webp")
    store.put(KEY, b"new", "image/webp")
    assert store.read(KEY) == b"new"
    assert store.stat(KEY) == Artifact(KEY, sha256(b"new"), 3, "image/webp")
    assert list(store.keys()) == [KEY]


CONTENT = bytes(range(256)) * 1000


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (0, 256_000), (10, 20), (255_999, 256_000), (255_990, 999_999_999), (256_000, 256_001), (10**15, 10**16)],
)
def test_a_range_is_read(store: Store, start: int, stop: int) -> None:
    store.put(KEY, CONTENT, "image/webp")
    with store.open_range(KEY, start, stop) as stream:
        assert stream.read() == CONTENT[start:stop]
        assert stream.read(1) == b""


def test_a_range_is_read_in_pieces(store: Store) -> None:
    store.put(KEY, CONTENT, "image/webp")
    with store.open_range(KEY, 1000, 3500) as stream:
        assert [stream.read(1000) for _ in range(4)] == [
            CONTENT[1000:2000],
            CONTENT[2000:3000],
            CONTENT[3000:3500],
            b"",
        ]


def test_a_range_of_nothing(store: Store) -> None:
    store.put(KEY, b"", "image/webp")
    with store.open_range(KEY, 0, 10) as stream:
        assert stream.read() == b""
    with pytest.raises(MissingObject):
        store.open_range("jobs/other", 0, 10)
    for start, stop in [(0, 0), (5, 5), (5, 4), (-1, 3), (-5, -1)]:
        with pytest.raises(ValueError, match="a range begins"):
            store.open_range(KEY, start, stop)


def test_an_open_range_outlives_its_object(store: Store) -> None:
    store.put(KEY, b"old content", "image/webp")
    with store.open_range(KEY, 4, 11) as stream:
        store.put(KEY, b"new content", "image/webp")
        store.delete(KEY)
        assert stream.read() == b"content"


def test_once_replaces_nothing(store: Store) -> None:
    store.put(KEY, b"first", "image/webp", once=True)
    for data in (b"second", b"first"):
        with pytest.raises(ObjectExists, match=r"image\.webp"):
            store.put(KEY, data, "image/png", once=True)
    assert store.stat(KEY) == Artifact(KEY, sha256(b"first"), 5, "image/webp")
    store.delete(KEY)
    store.put(KEY, b"second", "image/webp", once=True)
    store.put(KEY, b"third", "image/webp")
    assert store.read(KEY) == b"third"
    assert list(store.keys()) == [KEY]


def test_a_draft_is_nothing_until_it_is_kept(store: Store, tmp_path: Path) -> None:
    store.put(KEY, b"old", "image/png")
    with closing(store.draft(KEY, "image/webp")) as draft:
        for chunk in (b"pic", b"", b"ture"):
            draft.write(chunk)
        assert (draft.sha256, draft.size) == (sha256(b"picture"), 7)
        assert store.read(KEY) == b"old"
        assert draft.keep() == store.stat(KEY) == Artifact(KEY, sha256(b"picture"), 7, "image/webp")
    assert store.read(KEY) == b"picture"
    with closing(store.draft(KEY, "image/webp")) as draft:
        draft.write(b"x" * 9_000_000)
    with closing(store.draft(KEY, "image/webp")) as draft, pytest.raises(ObjectExists):
        draft.keep(once=True)
    assert store.read(KEY) == b"picture"
    assert list(tmp_path.glob("store/incoming/*")) == []


def test_a_draft_of_nothing_sensible_is_refused(store: Store) -> None:
    with pytest.raises(InvalidKey):
        store.draft("../x", "image/webp")
    with pytest.raises(ValueError, match="no media type"):
        store.draft(KEY, "image")


def test_every_store_makes_the_same_urls(store: Store) -> None:
    url = store.url(KEY, expires_at=NOW, filename="a b.webp")
    signer = UrlSigner(BASE_URL, SECRET)
    assert url == signer.url(KEY, expires_at=NOW, filename="a b.webp")
    assert store.key_of(url) == KEY
    query = dict(parse_qsl(urlsplit(url).query))
    assert store.verify(KEY, query, NOW - timedelta(seconds=1)) == "a b.webp"
    promise = UploadPromise("image/webp", 7, sha256(b"picture"), NOW)
    upload = store.upload_url(KEY, mime_type="image/webp", bytes=7, sha256=promise.sha256, expires_at=NOW)
    assert upload.startswith(f"{BASE_URL}/uploads/{KEY}?")
    query = dict(parse_qsl(urlsplit(upload).query))
    assert store.verify_upload(KEY, query, NOW - timedelta(seconds=1)) == promise


def test_an_open_stream_outlives_its_object(store: Store) -> None:
    store.put(KEY, b"old", "image/webp")
    with store.open(KEY) as stream:
        store.put(KEY, b"new", "image/webp")
        store.delete(KEY)
        assert stream.read() == b"old"


def test_what_was_never_put_is_missing(store: Store) -> None:
    assert store.stat(KEY) is None
    for read in (store.read, store.open):
        with pytest.raises(MissingObject, match=r"image\.webp"):
            read(KEY)
    assert list(store.keys()) == []


def test_delete(store: Store) -> None:
    store.put(KEY, b"x", "image/webp")
    store.put("in/abc", b"y", "image/webp")
    store.delete(KEY)
    store.delete(KEY)
    assert store.stat(KEY) is None
    assert list(store.keys()) == ["in/abc"]


def test_delete_prefix_takes_whole_parts(store: Store) -> None:
    kept = {"jobs/b/1/image.webp", "jobs/aa/1/image.webp", "jobs/a", "in/jobs/a/1"}
    doomed = {"jobs/a/1/image.webp", "jobs/a/1/poster.webp", "jobs/a/2/image.webp", "jobs/a/1"}
    for key in kept | doomed:
        store.put(key, key.encode(), "image/webp")
    assert set(store.keys("jobs/a/")) == doomed
    store.delete_prefix("jobs/a/")
    store.delete_prefix("jobs/a/")
    assert set(store.keys()) == kept
    assert list(store.keys("jobs/a/")) == []
    store.put("jobs/a/3/image.webp", b"again", "image/webp")
    assert list(store.keys("jobs/a/")) == ["jobs/a/3/image.webp"]


def test_a_key_may_be_the_beginning_of_another(store: Store) -> None:
    keys = {"a", "a/b", "a.json", "a.json/b", "a/b/c", "A"}
    for key in keys:
        store.put(key, key.encode(), "text/plain")
    assert set(store.keys()) == keys
    assert {store.read(key).decode() for key in keys} == keys


def test_the_longest_key(store: Store) -> None:
    key = "/".join(["a" * 128] * 3 + ["b" * 125])
    assert len(key) == MAX_KEY_CHARACTERS
    store.put(key, b"x", "image/webp")
    assert list(store.keys()) == [key]
    with pytest.raises(InvalidKey):
        store.put(key + "b", b"x", "image/webp")


@pytest.mark.parametrize("key", BAD_KEYS)
def test_hostile_keys_are_refused_everywhere(store: Store, key: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    uses: list[Callable[[str], object]] = [store.read, store.open, store.stat, store.delete]
    uses += [
        lambda key: store.open_range(key, 0, 1),
        lambda key: store.put(key, b"x", "image/webp"),
        lambda key: store.url(key, expires_at=NOW, filename="a"),
        lambda key: store.upload_url(key, mime_type="image/webp", bytes=1, sha256=None, expires_at=NOW),
    ]
    for use in uses:
        with pytest.raises(InvalidKey) as refusal:
            use(key)
        assert len(str(refusal.value)) < 600
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "lock") == before


@pytest.mark.parametrize("prefix", ["/", "a", "../", "a/../", "a//", "./", "/a/", "a/b", "a@json/"])
def test_hostile_prefixes_are_refused(store: Store, prefix: str) -> None:
    store.put("a/b", b"x", "image/webp")
    with pytest.raises(InvalidKey):
        store.delete_prefix(prefix)
    with pytest.raises(InvalidKey):
        list(store.keys(prefix))
    assert list(store.keys()) == ["a/b"]


def test_nothing_deletes_all_at_once(store: Store) -> None:
    store.put(KEY, b"x", "image/webp")
    with pytest.raises(InvalidKey):
        store.delete_prefix("")
    assert list(store.keys()) == [KEY]


@pytest.mark.parametrize(
    "mime_type", ["", "image", "image/", "image/webp\r\nX: y", "Image/WEBP", "text/html; charset=utf-8"]
)
def test_a_type_that_could_not_be_a_header_is_refused(store: Store, mime_type: str) -> None:
    with pytest.raises(ValueError, match="no media type"):
        store.put(KEY, b"x", mime_type)
    assert store.stat(KEY) is None


@pytest.mark.parametrize("make", [lambda: "text", lambda: None, lambda: 5, lambda: [b"x"], lambda: io.StringIO("text")])
def test_what_is_no_data_is_refused_and_leaves_the_old(store: Store, make: Callable[[], object]) -> None:
    store.put(KEY, b"old", "image/webp")
    with pytest.raises(TypeError):
        store.put(KEY, cast(bytes, make()), "image/webp")
    assert store.read(KEY) == b"old"


class Breaking:
    """A stream that fails after its first chunk."""

    def __init__(self) -> None:
        self._chunks = iter([b"half"])

    def read(self, _: int = -1) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            raise ConnectionResetError("the sender went away") from None


def test_a_stream_that_breaks_leaves_the_old_object(store: Store) -> None:
    store.put(KEY, b"old", "image/webp")
    with pytest.raises(ConnectionResetError):
        store.put(KEY, cast(BinaryIO, Breaking()), "image/webp")
    with pytest.raises(ConnectionResetError):
        store.put("jobs/other", cast(BinaryIO, Breaking()), "image/webp")
    assert store.read(KEY) == b"old"
    assert list(store.keys()) == [KEY]


def test_a_missing_source_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put(KEY, tmp_path / "missing", "image/webp")
    assert list(store.keys()) == []


def rounds_for(store: Store) -> int:
    """A request to a Swift takes its 20 ms."""
    return 5 if isinstance(store, LocalStore) else 2


def test_writers_and_readers_of_one_key_see_whole_objects(store: Store) -> None:
    contents = {bytes([number]) * (100_000 + number): f"image/x-{number}" for number in range(8)}
    expected = {(sha256(data), len(data), mime_type) for data, mime_type in contents.items()}
    store.put(KEY, next(iter(contents)), "image/x-0")

    rounds = rounds_for(store)

    def write(item: tuple[bytes, str]) -> None:
        for _ in range(rounds):
            store.put(KEY, *item)

    def read(_: int) -> None:
        for _ in range(5 * rounds):
            assert store.read(KEY) in contents
            found = store.stat(KEY)
            assert found is not None
            assert (found.sha256, found.bytes, found.mime_type) in expected

    with ThreadPoolExecutor(12) as pool:
        for done in [
            *(pool.submit(write, item) for item in contents.items()),
            *(pool.submit(read, n) for n in range(4)),
        ]:
            done.result()
    found = store.stat(KEY)
    assert found is not None
    assert sha256(store.read(KEY)) == found.sha256
    assert list(store.keys()) == [KEY]


def test_writers_and_a_sweep_of_one_folder_do_not_break_each_other(store: Store) -> None:
    rounds = rounds_for(store)

    def write(number: int) -> None:
        for fence in range(4 * rounds):
            store.put(f"jobs/a/{fence}/{number}", b"x" * 1000, "image/webp")

    def sweep() -> None:
        for _ in range(8 * rounds):
            store.delete_prefix("jobs/a/")
            list(store.keys())

    with ThreadPoolExecutor(6) as pool:
        for done in [*(pool.submit(write, number) for number in range(4)), pool.submit(sweep), pool.submit(sweep)]:
            done.result()
    left = list(store.keys())
    assert [store.read(key) for key in left] == [b"x" * 1000] * len(left)


def test_errors_cross_processes() -> None:
    for error in (MissingObject(KEY), InvalidKey("../x"), ObjectExists(KEY)):
        received = pickle.loads(pickle.dumps(error))
        assert (type(received), received.key, str(received)) == (type(error), error.key, str(error))
