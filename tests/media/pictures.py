"""Pictures and files that the tests of media are made of."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def gradient(width: int = 64, height: int = 48) -> Pixels:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[..., 2] = 128
    return pixels


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The name and the body of each chunk of a PNG."""
    found = []
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG of `rows` (each with its filter byte); `extra` are whole chunks between its header and them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def swap_red_and_blue(profile: bytes) -> bytes:
    """An RGB profile whose red and blue primaries have changed places."""
    count = struct.unpack_from(">I", profile, 128)[0]
    table = bytearray(profile)
    for index in range(count):
        at = 132 + 12 * index
        name = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(bytes(table[at : at + 4]))
        if name:
            table[at : at + 4] = name
    return bytes(table)


def press_profile() -> bytes:
    """A profile of a printing press (ICC.1:2001-04, lut8Type) whose paper and inks are all red: L*a*b* 55, 72, 62."""
    lab = bytes([140, 200, 190])
    ramp = bytes(range(256))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + lab * 16 + ramp * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 6) + b"press\0" + bytes(79)
    tags = [(b"A2B0", table), (b"desc", text + bytes(-len(text) % 4))]
    at, directory, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags:
        directory += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    whole = struct.pack(">I", len(tags)) + directory + body
    head = struct.pack(">I4sI4s4s4s", 128 + len(whole), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + whole
