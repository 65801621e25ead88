from __future__ import annotations

import io
import struct
import wave

import pytest
from PIL import Image

from media.kinds import MAX_BYTES, NAMES, Kind, kind_of, same, sniff, supported


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


def wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(100))
    return file.getvalue()


def id3(size: int) -> bytes:
    return b"ID3\x04\x00\x00" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


ADTS = b"\xff\xf1\x50\x80\x02\x1f\xfc"
MP3 = b"\xff\xfb\x90\x64\x00"


@pytest.mark.parametrize(
    ("data", "kind", "found"),
    [
        (picture("PNG"), "image", "image/png"),
        (picture("JPEG"), "image", "image/jpeg"),
        (picture("WEBP"), "image", "image/webp"),
        (picture("GIF"), "image", None),
        (picture("PNG"), "audio", None),
        (wav(), "audio", "audio/wav"),
        (wav(), "image", None),
        (b"OggS" + bytes(30), "audio", "audio/ogg"),
        (b"fLaC" + bytes(30), "audio", "audio/flac"),
        (MP3, "audio", "audio/mpeg"),
        (ADTS, "audio", "audio/aac"),
        (id3(300) + MP3, "audio", "audio/mpeg"),
        (id3(300) + ADTS, "audio", "audio/aac"),
        (id3(300), "audio", "audio/mpeg"),
        (id3(300)[:12], "audio", "audio/mpeg"),
        (b"ID3", "audio", "audio/mpeg"),
        (b"\x00\x00\x00\x20ftypM4A ", "audio", "audio/mp4"),
        (b"\x00\x00\x00\x20ftypisom", "video", "video/mp4"),
        (b"\x1a\x45\xdf\xa3\x9fB\x82\x84webm", "audio", "audio/webm"),
        (b"\x1a\x45\xdf\xa3\x9fB\x82\x84webm", "video", "video/webm"),
        (b"\x1a\x45\xdf\xa3\x9fB\x82\x88matroska", "video", None),
        (struct.pack(">I", 0xFFFFFFFF), "audio", None),
        (b"\xff\xe9\x90\x64", "audio", None),
        (b"", "image", None),
        (b"", "audio", None),
        (b"\xff", "audio", None),
        (b"<svg", "image", None),
    ],
)
def test_the_content_decides(data: bytes, kind: Kind, found: str | None) -> None:
    assert sniff(data, kind) == found


def test_every_type_has_a_kind_a_limit_and_a_family() -> None:
    for mime_type in supported():
        kind = kind_of(mime_type)
        assert kind is not None
        assert MAX_BYTES[kind]
        assert NAMES[kind]
        assert same(mime_type, mime_type)
    assert {kind_of(name) for name in ("image/gif", "audio/midi", "text/html", "", "image", "IMAGE/PNG")} == {None}


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("audio/x-wav", "audio/wave", True),
        ("audio/aac", "audio/mp4", True),
        ("image/jpg", "image/jpeg", True),
        ("audio/opus", "audio/ogg", True),
        ("image/png", "image/webp", False),
        ("audio/mp4", "video/mp4", False),
        ("image/gif", "image/bmp", False),
    ],
)
def test_families(one: str, other: str, alike: bool) -> None:
    assert same(one, other) is same(other, one) is alike
