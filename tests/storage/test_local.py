from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.settings import Settings
from storage import open_store
from storage.base import InvalidKey, MissingObject, ObjectExists, StoreUnavailable
from storage.local import LocalStore

SECRET = b"k" * 32
KEY = "jobs/a/1/image.webp"

KILLED_WRITER = """
import sys
from pathlib import Path
from storage.local import LocalStore

class Endless:
    def read(self, size=-1):
        print("reading", flush=True)
        return b"x" * 100_000

LocalStore(Path(sys.argv[1]), "http://x", b"k" * 32).put(sys.argv[2], Endless(), "image/webp")
"""

KILLED_AT = """
import os, sys
from pathlib import Path
from storage.local import LocalStore

steps = 0
replace = Path.replace
def stop(self, target):
    global steps
    steps += 1
    if steps == int(sys.argv[3]):
        os._exit(9)
    return replace(self, target)
Path.replace = stop
LocalStore(Path(sys.argv[1]), "http://x", b"k" * 32).put(sys.argv[2], b"new", "image/webp")
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", "http://127.0.0.1:8000", SECRET)


def leftovers(root: Path) -> list[Path]:
    return list((root / "incoming").iterdir())


def test_files_and_folders_are_private(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        LocalStore(tmp_path / "deep" / "store", "http://x", SECRET).put(KEY, b"x", "image/webp")
    finally:
        os.umask(mask)
    for path in (tmp_path / "deep").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_the_content_is_one_plain_file(store: LocalStore) -> None:
    store.put(KEY, b"picture", "image/webp")
    assert store.path(KEY).read_bytes() == b"picture"
    assert store.path(KEY).is_absolute()
    store.delete(KEY)
    with pytest.raises(MissingObject):
        store.path(KEY)
    with pytest.raises(InvalidKey):
        store.path("../x")


def test_replacing_and_deleting_leave_no_files(store: LocalStore, tmp_path: Path) -> None:
    for number in range(5):
        store.put(KEY, bytes(number), "image/webp")
    assert len(list(store.path(KEY).parent.iterdir())) == 2
    folder = store.path(KEY).parent
    store.delete(KEY)
    assert list(folder.iterdir()) == []
    assert leftovers(tmp_path / "store") == []


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_writer_killed_while_writing_leaves_the_old_object_or_none(
    store: LocalStore, tmp_path: Path, old: bytes | None
) -> None:
    if old is not None:
        store.put(KEY, old, "image/webp")
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path / "store"), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(3):
            assert writer.stdout.readline() == "reading\n"
        writer.send_signal(signal.SIGKILL)
    assert list(store.keys()) == ([KEY] if old else [])
    assert (store.read(KEY) if old else store.stat(KEY)) == old
    store.put(KEY, b"next", "image/webp")
    assert store.read(KEY) == b"next"


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_writer_killed_while_moving_leaves_the_old_object_or_none(
    store: LocalStore, tmp_path: Path, old: bytes | None, step: int
) -> None:
    if old is not None:
        store.put(KEY, old, "image/png")
    command = [sys.executable, "-c", KILLED_AT, str(tmp_path / "store"), KEY, str(step)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 9
    assert (store.read(KEY) if old else store.stat(KEY)) == old
    store.put(KEY, b"next", "image/webp")
    assert store.read(KEY) == b"next"
    store.delete_prefix("jobs/")
    assert list((tmp_path / "store" / "objects").rglob("*")) == []


def test_what_killed_writers_left_goes_after_a_day(store: LocalStore, tmp_path: Path) -> None:
    incoming = tmp_path / "store" / "incoming"
    (incoming / "young").write_bytes(b"x")
    (incoming / "old").write_bytes(b"x")
    (incoming / "folder" / "inner").mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86_400
    for name in ("old", "folder"):
        os.utime(incoming / name, (two_days_ago, two_days_ago))
    LocalStore(tmp_path / "store", "http://x", SECRET)
    assert [path.name for path in incoming.iterdir()] == ["young"]


@pytest.mark.parametrize(("fault", "ours"), [(errno.ENOSPC, True), (errno.EIO, True), (errno.EACCES, False)])
def test_a_full_disk_is_not_the_callers_fault(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, ours: bool
) -> None:
    store.put(KEY, b"old", "image/webp")

    def failing(_: int) -> None:
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(StoreUnavailable if ours else PermissionError):
            store.put(KEY, b"new", "image/webp")
    assert store.read(KEY) == b"old"
    assert leftovers(tmp_path / "store") == []


def test_of_writers_that_replace_nothing_one_wins(store: LocalStore) -> None:
    """Not so on Swift, which looks for the object when a put begins: of the same moment, all pass."""
    together = threading.Barrier(6)

    def write(number: int) -> bool:
        together.wait()
        try:
            store.put(KEY, b"%d" % number, "text/plain", once=True)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(write, range(6)))
    assert won.count(True) == 1
    assert store.read(KEY) == b"%d" % won.index(True)


def test_processes_share_the_objects(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from storage.local import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1]), 'http://x', b'k' * 32)\n"
        "[store.put('shared', bytes([int(sys.argv[2])]) * 50_000, 'image/webp') for _ in range(30)]\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(number)]) for number in (1, 2)]
    store = LocalStore(tmp_path, "http://x", SECRET)
    while any(writer.poll() is None for writer in writers):
        if store.stat("shared") is not None:
            data = store.read("shared")
            assert data in (b"\x01" * 50_000, b"\x02" * 50_000)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(list((tmp_path / "objects").iterdir())) == 2


def test_a_short_signing_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        LocalStore(tmp_path, "http://x", b"short")


def test_the_settings_open_the_same_store_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KILLATAMATA_SECRET_KEY", raising=False)
    settings = Settings(data_dir=tmp_path / "data")
    open_store(settings, "http://one").put(KEY, b"x", "image/webp")
    assert open_store(Settings(data_dir=tmp_path / "data"), "http://two").read(KEY) == b"x"
