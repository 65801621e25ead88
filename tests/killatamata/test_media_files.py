from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from killatamata.media_files import UnknownMedia, mime_type


@pytest.mark.parametrize(
    ("head", "field", "found"),
    [
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "sourceAudio", "audio/wav"),
        (b"RIFF\x0a\x0a\x0a\x0aWEBPVP8 ", "sourceImage", "image/webp"),
        (b"OggS\x00\x02", "sourceAudio", "audio/ogg"),
        (b"fLaC\x00\x00\x00\x22", "sourceAudio", "audio/flac"),
        (b"ID3\x04\x00", "sourceAudio", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "sourceAudio", "audio/mpeg"),
        (b"\xff\xf3\x40\xc0", "sourceAudio", "audio/mpeg"),
        (b"\xff\xf1\x50\x80", "sourceAudio", "audio/aac"),
        (b"\x00\x00\x00\x20ftypM4A \x00", "videoUrls", "audio/mp4"),
        (b"\x00\x00\x00\x20ftypisom\x00", "videoUrls", "video/mp4"),
        (b"\x00\x00\x00\x20ftypisom\x00", "referenceAudio", "audio/mp4"),
        (b"\x1a\x45\xdf\xa3\x9f", "referenceAudioUrl", "audio/webm"),
        (b"\x1a\x45\xdf\xa3\x9f", "videoUrls", "video/webm"),
    ],
)
def test_the_first_bytes_decide_and_not_the_name(tmp_path: Path, head: bytes, field: str, found: str) -> None:
    path = tmp_path / "wrong.png"
    path.write_bytes(head + bytes(100))
    assert mime_type(path, field) == found


@pytest.mark.parametrize(("kind", "found"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
def test_real_pictures_are_known(tmp_path: Path, kind: str, found: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    path = tmp_path / "picture"
    path.write_bytes(file.getvalue())
    assert mime_type(path, "sourceImage") == found


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"GIF89a", "convert it to"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "convert it to"),
        (b"%PDF-1.7", "convert it to"),
        (b"RIFF", "convert it to"),
        (b"\x89PNG", "convert it to"),
        (b"\xff\xfe<\x00h\x00", "convert it to"),
    ],
)
def test_what_no_task_takes_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(UnknownMedia, match=reason):
        mime_type(path, "sourceImage")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe: Any = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(UnknownMedia, match="no regular file"):
            mime_type(path, "sourceImage")
    with pytest.raises(FileNotFoundError):
        mime_type(tmp_path / "missing.png", "sourceImage")
