"""How many entries FFmpeg would make of an MP4's tables: a kilobyte can claim billions. Standard library only.

FFmpeg builds its index when it opens a file, before anybody can ask it anything, at some seventy bytes of memory an entry.
It obeys a table wherever it stands, so tables are searched for and not walked to; only samples themselves are passed over.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterator
from typing import BinaryIO

from media.errors import InvalidMedia

MAX_ENTRIES = 4_000_000
"""Of all tracks; an hour of Opus in the shortest frames has 1.5 million, an hour of pictures at 240 a second 0.9."""

_MAX_TABLE_BYTES = 128 << 20
_MAX_BOXES = 2_000_000
_PCM_AT_ONCE = 1024
"""Samples of one byte or more that are read as they lie are one entry, so many at a time."""


def check_index(file: BinaryIO) -> None:
    """Refuse an MP4 whose tables claim more than `MAX_ENTRIES`; `file` is read, and left anywhere.

    Raises:
        InvalidMedia: they do, or they are too large or too many to look through.
    """
    claimed = read = 0
    for content in _tables(file):
        read += len(content)
        if read > _MAX_TABLE_BYTES or b"cmov" in content:
            raise InvalidMedia("The file's tables are too large, or compressed; export it again.")
        tracks = content.split(b"trak")
        claimed += _claimed(tracks[0]) + sum(map(_claimed, tracks[1:]))
        if claimed > MAX_ENTRIES:
            raise InvalidMedia(
                f"The file claims more than {MAX_ENTRIES} frames and pieces of sound; send a shorter one."
            )


def _tables(file: BinaryIO) -> Iterator[bytes]:
    """What is in the outermost boxes, save those of samples and of padding."""
    total = file.seek(0, io.SEEK_END)
    at = count = 0
    while at + 8 <= total:
        file.seek(at)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        size = total - at if size == 0 else min(size, total - at)
        # FFmpeg takes padding for tables when these begin in it.
        if kind not in (b"mdat", b"free", b"skip") or head[12:16] in (b"mvhd", b"cmov"):
            if size > _MAX_TABLE_BYTES:
                raise InvalidMedia("The file's tables are too large; export it again.")
            file.seek(at)
            yield file.read(size)
        if size < 8:
            return
        at, count = at + size, count + 1
        if count > _MAX_BOXES:
            raise InvalidMedia("The file is cut into too many pieces; export it again.")


def _claimed(track: bytes) -> int:
    """The entries that the tables of one track make."""
    fragments = sum(_number(track, at + 8) for at in _places(track, b"trun"))
    samples = sum(_number(track, at + 12) for name in (b"stsz", b"stz2") for at in _places(track, name))
    if samples > MAX_ENTRIES and _is_pcm(track):
        samples = _pieces(track)
    edits = sum(_number(track, at + 8) for at in _places(track, b"elst"))
    return (samples + fragments) * max(1, edits)


def _is_pcm(track: bytes) -> bool:
    """Whether it is sound, of which each sample lasts one unit of time."""
    kinds = {track[at + 12 : at + 16] for at in _places(track, b"hdlr")} - {b"mdir", b"mdta", b"url ", b"alis"}
    times = list(_places(track, b"stts"))
    return kinds == {b"soun"} and [(_number(track, at + 8), _number(track, at + 16)) for at in times] == [(1, 1)]


def _pieces(track: bytes) -> int:
    chunks = sum(_number(track, at + 8) for name in (b"stco", b"co64") for at in _places(track, name))
    most = 0
    for at in _places(track, b"stsc"):
        runs = array("I", track[at + 12 : at + 12 + 12 * min(_number(track, at + 8), (len(track) - at - 12) // 12)])
        runs.byteswap()
        most = max(most, *runs[1::3], 0)
    return chunks * -(-most // _PCM_AT_ONCE)


def _places(track: bytes, name: bytes) -> Iterator[int]:
    at = track.find(name)
    while at >= 0:
        yield at
        at = track.find(name, at + 4)


def _number(track: bytes, at: int) -> int:
    return int.from_bytes(track[at : at + 4], "big")
