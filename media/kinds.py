"""What a file is by its first bytes, and which MIME types mean the same. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["image", "audio", "video"]

MAX_BYTES: Mapping[Kind, int] = {"image": 30_000_000, "audio": 50_000_000, "video": 500_000_000}

_FAMILIES: Mapping[str, str] = {
    "image/png": "image/png",
    "image/jpeg": "image/jpeg",
    "image/jpg": "image/jpeg",
    "image/webp": "image/webp",
    "audio/ogg": "audio/ogg",
    "audio/opus": "audio/ogg",
    "audio/wav": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/mpeg": "audio/mpeg",
    "audio/mp3": "audio/mpeg",
    "audio/flac": "audio/flac",
    "audio/x-flac": "audio/flac",
    "audio/aac": "audio/mp4",
    "audio/mp4": "audio/mp4",
    "audio/webm": "audio/webm",
    "video/mp4": "video/mp4",
    "video/quicktime": "video/mp4",
    "video/webm": "video/webm",
}
NAMES: Mapping[Kind, str] = {
    "image": "PNG, JPEG or WebP",
    "audio": "Ogg, WAV, MP3, FLAC, AAC, MP4 or WebM",
    "video": "MP4 or WebM",
}
"""The formats of a kind, for people."""

_ID3_HEADER = 10


def kind_of(mime_type: str) -> Kind | None:
    """The kind of media that a supported MIME type names; None for every other."""
    kind = mime_type.partition("/")[0]
    return next((each for each in get_args(Kind) if each == kind and mime_type in _FAMILIES), None)


def supported() -> tuple[str, ...]:
    """Every MIME type that is taken."""
    return tuple(_FAMILIES)


def same(one: str, other: str) -> bool:
    """Whether two MIME types name the same family: audio/x-wav and audio/wave do."""
    return one == other or (one in _FAMILIES and _FAMILIES[one] == _FAMILIES.get(other))


def sniff(data: bytes, kind: Kind) -> str | None:
    """The MIME type that the first bytes of `data` declare, as a file of that kind; None when it is none of ours."""
    if kind == "image":
        return _image(data)
    container = _container(data)
    if container is not None:
        return f"{kind}/{container}"
    return _audio(data) if kind == "audio" else None


def _image(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def _container(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        return "mp4"
    if data.startswith(b"\x1a\x45\xdf\xa3") and b"webm" in data[:64]:
        return "webm"
    return None


def _audio(data: bytes) -> str | None:
    if data.startswith(b"OggS"):
        return "audio/ogg"
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "audio/wav"
    if data.startswith(b"fLaC"):
        return "audio/flac"
    if data.startswith(b"ID3"):
        return _audio(data[_id3_end(data) :][:16]) or "audio/mpeg"
    return _frame(data)


def _id3_end(data: bytes) -> int:
    """Where an ID3v2 tag ends: its size is in four bytes of seven bits (id3.org, ID3v2.4.0, section 3.1)."""
    size = 0
    for byte in data[6:_ID3_HEADER]:
        size = size << 7 | byte & 0x7F
    return _ID3_HEADER + size


def _frame(data: bytes) -> str | None:
    """By the sync word: of ADTS with layer 00 (ISO/IEC 13818-7), of MPEG audio with any other (ISO/IEC 11172-3)."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    version, layer = data[1] >> 3 & 3, data[1] >> 1 & 3
    if layer == 0:
        return "audio/aac" if data[1] & 0xF0 == 0xF0 else None
    return "audio/mpeg" if version != 1 and data[2] >> 4 != 0xF and data[2] >> 2 & 3 != 3 else None
