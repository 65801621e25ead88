"""Opening a caller's sound or video: the content decides what reads it, and nothing in it makes the reading boundless."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from media import kinds
from media.errors import InvalidMedia, UnsupportedMedia
from media.index import check_index

if TYPE_CHECKING:
    import av

Source: TypeAlias = Path | BinaryIO | bytes
"""A file, a stream that can be sought, or the content itself."""

MAX_PIXELS = 40_000_000
"""Of a frame; what the decoders are told too, as their headers may change on the way."""

_DEMUXERS: Mapping[str, str] = {
    "audio/ogg": "ogg",
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/flac": "flac",
    "audio/aac": "aac",
    "audio/mp4": "mov",
    "audio/webm": "matroska",
    "video/mp4": "mov",
    "video/webm": "matroska",
}
_UNKNOWN_BYTES = 0x7F00_0000
_HEAD_BYTES = 1 << 20
"""Enough for most tags with a cover that stand before an MP3, AAC or FLAC."""


@contextmanager
def opened(source: Source, kind: kinds.Kind, max_bytes: int) -> Iterator[tuple[av.container.InputContainer, str]]:
    """`source` as a container to read, and its MIME type; what FFmpeg says of it inside the block becomes our errors.

    Copy what you need out of the container's streams inside the block: afterwards they point to freed memory.

    Raises:
        UnsupportedMedia: of none of the formats of that kind.
        InvalidMedia: empty, larger than `max_bytes`, broken, or cut off.
    """
    import av

    with _stream(source) as file:
        size = file.seek(0, io.SEEK_END)
        if not size:
            raise InvalidMedia(f"The {kind} file is empty.")
        if size > max_bytes:
            raise InvalidMedia(f"The {kind} file has {size} bytes; at most {max_bytes} are accepted.")
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        mime_type = kinds.sniff(head, kind)
        if mime_type is None:
            raise UnsupportedMedia(f"This {kind} file is none of {kinds.NAMES[kind]}; convert it to one of them.")
        if mime_type == "audio/wav" and _lacks(head, size):
            raise InvalidMedia("The WAV file is cut off: it is shorter than it declares. Send the whole file.")
        if _DEMUXERS[mime_type] == "mov":
            check_index(file)
        file.seek(0)
        try:
            demuxer, options = _DEMUXERS[mime_type], {"max_pixels": str(MAX_PIXELS)}
            with av.open(file, "r", format=demuxer, options=options, metadata_errors="replace") as container:
                yield container, mime_type
        except av.FFmpegError as error:
            raise InvalidMedia(f"The {kind} file is broken or cut off; export it again. ({error.strerror})") from error


def _lacks(head: bytes, size: int) -> bool:
    """Whether a WAV of `size` bytes declares more; FFmpeg would not tell. Programs that cannot seek declare 2 to 4 GiB."""
    declared = int.from_bytes(head[4:8], "little") + 8
    return declared < _UNKNOWN_BYTES and declared - size > min(declared // 20, 1 << 16)


@contextmanager
def _stream(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        yield io.BytesIO(source) if isinstance(source, bytes) else source
