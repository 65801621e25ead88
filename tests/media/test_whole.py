from __future__ import annotations

from pathlib import Path

import pytest

from media.whole import is_cut_off
from tests.media.numbered_clips import made

EBML = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"


def box(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return (8 + len(body) if size is None else size).to_bytes(4, "big") + name + body


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_a_file_is_whole_until_a_byte_is_missing(name: str, tmp_path: Path) -> None:
    vp8 = {"codec": "libvpx", "options": {"deadline": "realtime"}, "sound": "libopus"}
    path = made(tmp_path / name, 5, **(vp8 if name.endswith("webm") else {}))  # type: ignore[arg-type]
    whole = path.read_bytes()
    assert not is_cut_off(path)
    for size in (len(whole) - 1, len(whole) // 2, 20):
        path.write_bytes(whole[:size])
        assert is_cut_off(path)


@pytest.mark.parametrize(
    ("content", "cut"),
    [
        (box(b"ftyp", b"isom"), False),
        (box(b"ftyp", b"isom") + b"\0\0\0", False),
        (box(b"ftyp", b"isom") + box(b"mdat", b"abc", 0), False),
        (box(b"ftyp", b"isom") + box(b"mdat", b"abc", 7), True),
        (box(b"ftyp", b"isom") + box(b"mdat", b"abc", 12), True),
        (box(b"ftyp", b"isom") + box(b"mdat", (20).to_bytes(8, "big") + b"abcd", 1), False),
        (box(b"ftyp", b"isom") + box(b"mdat", (21).to_bytes(8, "big") + b"abcd", 1), True),
        (box(b"ftyp", b"isom") + box(b"mdat", (1 << 63).to_bytes(8, "big"), 1), True),
        (EBML + b"\x81a" + SEGMENT + b"\x82ab", False),
        (EBML + b"\x81a" + SEGMENT + b"\x83ab", True),
        (EBML + b"\x81a" + SEGMENT + b"\x40\x02ab", False),
        (EBML + b"\x81a" + SEGMENT + b"\x01\xff\xff\xff\xff\xff\xff\xffab", False),
        (EBML + b"\x81a" + SEGMENT + b"\xffab", False),
        (EBML + b"\x81a", True),
        (EBML + b"\x81a" + SEGMENT, True),
        (EBML, True),
        (EBML + b"\0", True),
    ],
)
def test_sizes_are_read_as_they_are_written(content: bytes, cut: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert is_cut_off(path) is cut
