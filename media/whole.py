"""Whether a file holds as many bytes as its outermost boxes claim. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

_SEGMENT = b"\x18\x53\x80\x67"
_BEYOND = 1 << 62


def is_cut_off(path: Path) -> bool:
    """Whether an MP4 or WebM file ends before its last box or element does.

    MP4 (ISO/IEC 14496-12, section 4.2): 32-bit sizes, 1 announces a 64-bit one, 0 means to the end. WebM (RFC 8794, section
    4): the EBML header, then one Segment; a size of ones alone means that it is not known.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        return _ebml_cut_off(file, total) if file.read(4) == b"\x1a\x45\xdf\xa3" else _boxes_cut_off(file, total)


def _boxes_cut_off(file: BinaryIO, total: int) -> bool:
    at = 0
    while at + 8 <= total:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        if size == 0:
            return False
        if size < 8:
            return True
        at += size
    return at > total


def _ebml_cut_off(file: BinaryIO, total: int) -> bool:
    file.seek(min(_length(file) or 0, total), os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return True
    segment = _length(file)
    return segment is not None and file.tell() + segment > total


def _length(file: BinaryIO) -> int | None:
    """The variable-length size at the file's place; None when it is not known, and no end when the file ends before."""
    first = file.read(1)
    if not first or not first[0]:
        return _BEYOND
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (1 << 7 - more) - 1]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value
