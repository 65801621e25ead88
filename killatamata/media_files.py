"""What kind of media a file holds, by its first bytes (WHATWG MIME Sniffing, section 6; RFC 9639 for FLAC)."""

from __future__ import annotations

import re
from pathlib import Path

from core.errors import OperatorError

_HEAD_BYTES = 64
_AUDIO, _VIDEO = "audio", "video"

_SIGNATURES: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"RIFF....WEBPVP", re.DOTALL), "image/webp"),
    (re.compile(rb"RIFF....WAVE", re.DOTALL), "audio/wav"),
    (re.compile(rb"OggS\x00"), "audio/ogg"),
    (re.compile(rb"fLaC"), "audio/flac"),
    (re.compile(rb"ID3"), "audio/mpeg"),
    (re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), "audio/aac"),
    (re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"), "audio/mpeg"),
    (re.compile(rb"....ftyp(?:M4A|M4B)", re.DOTALL), "audio/mp4"),
    (re.compile(rb"....ftyp", re.DOTALL), "*/mp4"),
    (re.compile(rb"\x1a\x45\xdf\xa3"), "*/webm"),
)


class UnknownMedia(OperatorError):
    """The file holds no media that the API takes, or nothing at all."""


def mime_type(path: Path, field: str) -> str:
    """The MIME type of the file at `path`; of containers, `field` says whether sound or picture is wanted.

    Raises:
        UnknownMedia: no regular file, empty, or of a kind that no task takes.
        OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise UnknownMedia(f"{path} is no regular file")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise UnknownMedia(f"{path} is empty")
    for signature, found in _SIGNATURES:
        if signature.match(head):
            return found.replace("*", _AUDIO if _AUDIO in field.lower() else _VIDEO)
    raise UnknownMedia(
        f"{path} is no media that a task takes; convert it to PNG, JPEG or WebP (images), WAV, MP3, FLAC, Ogg, Opus, AAC"
        " or MP4 (audio), or MP4 (video)"
    )
