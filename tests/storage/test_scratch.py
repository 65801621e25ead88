"""Temporary folders, and what is left of them."""

from __future__ import annotations

import errno
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from media.errors import InvalidMedia
from storage import StoreUnavailable, scratch


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(parent: Path) -> list[str]:
    return [path.name for path in parent.iterdir()]


def test_it_is_gone_after_the_block_however_that_ends(parent: Path) -> None:
    with scratch.scratch() as folder:
        (folder / "a").write_bytes(b"x")
    assert left(parent) == []
    with pytest.raises(InvalidMedia), scratch.scratch():
        raise InvalidMedia("the caller's fault stays theirs")
    assert left(parent) == []


def test_what_a_killed_process_left_goes_and_what_one_uses_stays(parent: Path) -> None:
    killed = (
        "import os, signal, sys, tempfile\n"
        "from storage.scratch import scratch\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "with scratch() as folder:\n"
        "    (folder / 'large').write_bytes(bytes(1000))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", killed, str(parent)], check=False).returncode == -9
    abandoned = left(parent)
    assert len(abandoned) == 1
    (parent / "somebody's").mkdir()
    with scratch.scratch() as first, scratch.scratch() as second:
        assert sorted(left(parent)) == sorted([first.name, second.name, "somebody's"])


def test_a_link_in_its_place_is_not_followed(parent: Path) -> None:
    kept = parent / "kept"
    kept.mkdir()
    (kept / "a").write_bytes(b"x")
    (parent / f"{scratch.PREFIX}link").symlink_to(kept)
    with scratch.scratch():
        assert (kept / "a").exists()


def test_a_full_disk_is_nobodys_fault() -> None:
    with pytest.raises(StoreUnavailable, match="ENOSPC"), scratch.scratch():
        raise OSError(errno.ENOSPC, "no space left on device")


def test_room_is_left_to_others(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch.check_room(parent)
    with pytest.raises(StoreUnavailable, match="temporary files"):
        scratch.check_room(parent, 1 << 60)
    monkeypatch.setattr(scratch, "RESERVE_BYTES", 1 << 60)
    with pytest.raises(StoreUnavailable, match="temporary files"):
        scratch.check_room(parent)
