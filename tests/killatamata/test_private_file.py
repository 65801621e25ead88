from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from killatamata.private_file import write_private


def test_a_file_is_its_owners_only_and_alone_in_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "key"
    old = os.umask(0)
    try:
        write_private(path, "secret\n")
    finally:
        os.umask(old)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("secret\n", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_others_could_read_is_replaced_by_one_they_cannot(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    with path.open() as reader:
        write_private(path, "new")
        assert reader.read() == "old", "whoever reads sees the old content or the new one, whole"
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    path = tmp_path / "key"
    path.symlink_to(elsewhere)
    write_private(path, "secret")
    assert (elsewhere.read_text(), path.is_symlink()) == ("untouched", False)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_private(tmp_path / "nowhere" / "key", "secret")
