"""Temporary folders for files too large for memory: with room on the disk, and gone also when their process is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.base import StoreUnavailable, disk_faults

PREFIX = "killatamata-scratch-"
RESERVE_BYTES = 1 << 30
"""What is left to everybody else on the disk, a database perhaps among them."""


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder for the block, which first removes what killed processes left of theirs.

    Raises:
        StoreUnavailable: the disk is full or broken, here or in the block.
    """
    with disk_faults():
        parent = Path(tempfile.gettempdir())
        for left in parent.glob(f"{PREFIX}*"):
            _remove_abandoned(left)
        folder, lock = _made()
        try:
            yield folder
        finally:
            try:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def check_room(folder: Path, size: int = 0) -> None:
    """Whether `size` bytes more leave something of the disk to others.

    Raises:
        StoreUnavailable: they do not.
    """
    if shutil.disk_usage(folder).free - size < RESERVE_BYTES:
        raise StoreUnavailable("ENOSPC", "free the disk of temporary files, or run fewer jobs of video.combine at once")


def _made() -> tuple[Path, int]:
    """A folder and its lock, which the kernel lets go with the process."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = _opened(folder)
        if lock is None:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Between both lines it looked abandoned to everybody else.
        if folder.exists():
            return folder, lock
        os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    lock = _opened(folder)
    if lock is None:
        return
    try:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _opened(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
