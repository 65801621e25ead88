"""MP4s that claim more than they hold."""

from __future__ import annotations

import struct
from pathlib import Path


def claiming(path: Path, frames: int) -> Path:
    """The clip of one track at `path` with tables that claim so many frames, of a byte each and in one piece."""
    content = bytearray(path.read_bytes())
    struct.pack_into(">II", content, content.index(b"stsz") + 8, 1, frames)
    struct.pack_into(">III", content, content.index(b"stts") + 8, 1, frames, 1)
    struct.pack_into(">IIII", content, content.index(b"stsc") + 8, 1, 1, frames, 1)
    path.write_bytes(content)
    return path
