from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from killatamata.privileges import CannotDropRoot, check, command_prefix, reachable

STRANGER = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_reach_is_read_at_the_end_and_passage_on_the_way(tmp_path: Path) -> None:
    door = tmp_path / "door"
    file = door / "file"
    door.mkdir()
    file.write_text("")
    for folder in (door, *tmp_path.parents[: len(tmp_path.parents) - 2], tmp_path):
        folder.chmod(0o711)
    file.chmod(0o644)
    assert reachable(file, STRANGER)
    file.chmod(0o640)
    assert not reachable(file, STRANGER)
    assert reachable(file, os.geteuid())
    file.chmod(0o644)
    door.chmod(0o700)
    assert not reachable(file, STRANGER)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert not reachable(link, STRANGER)


@as_root
def test_the_program_is_somebody_else_with_nothing_to_gain() -> None:
    prefix = command_prefix(STRANGER, STRANGER, [Path("/")])
    told = subprocess.run([*prefix, "cat", "/proc/self/status"], check=True, capture_output=True, text=True).stdout
    status = dict(line.split(":\t", 1) for line in told.splitlines() if ":\t" in line)
    assert status["Uid"].split() == status["Gid"].split() == [str(STRANGER)] * 4
    assert status["Groups"].strip() == ""
    assert status["NoNewPrivs"] == "1"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


@as_root
def test_one_capability_passes_a_closed_door_and_writes_nowhere(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "file").write_text("behind the door")
    prefix = command_prefix(STRANGER, STRANGER, [tmp_path])
    read = subprocess.run([*prefix, "cat", str(tmp_path / "file")], check=False, capture_output=True, text=True)
    assert read.stdout == "behind the door"
    written = subprocess.run([*prefix, "touch", str(tmp_path / "new")], check=False, capture_output=True)
    assert written.returncode != 0
    assert not (tmp_path / "new").exists()


def test_without_setpriv_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("killatamata.privileges.shutil.which", lambda *_, **__: None)
    with pytest.raises(CannotDropRoot, match="setpriv"):
        check()
