"""Tables that claim too much, and honest ones that claim a lot."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from media import index, sound
from media.errors import InvalidMedia
from media.index import MAX_ENTRIES, check_index
from media.probe import probe
from tests.media.claims import claiming
from tests.media.numbered_clips import made


def box(name: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), name) + content


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def stsz(count: int) -> bytes:
    return box(b"stsz", numbers(0, 1, count))


def hdlr(kind: bytes) -> bytes:
    return box(b"hdlr", numbers(0, 0), kind, bytes(13))


def track(*boxes: bytes) -> bytes:
    return box(b"trak", *boxes)


def pcm(kind: bytes = b"soun", delta: int = 1, chunks: int = 3600, a_chunk: int = 48_000) -> bytes:
    """An hour of it."""
    count = chunks * a_chunk
    times, runs = box(b"stts", numbers(0, 1, count, delta)), box(b"stsc", numbers(0, 1, 1, a_chunk, 1))
    return track(hdlr(kind), stsz(count), times, runs, box(b"stco", numbers(0, chunks, *range(chunks))))


MANY = MAX_ENTRIES + 1
TOO_MUCH = {
    "frames": box(b"moov", track(stsz(MANY))),
    "tracks": box(b"moov", *[track(stsz(MAX_ENTRIES // 2))] * 3),
    "small sizes": box(b"moov", track(box(b"stz2", numbers(0, 8, MANY)))),
    "a fragment": box(b"moof", box(b"traf", box(b"trun", numbers(0, MANY)))),
    "fragments": box(b"moof", box(b"traf", box(b"trun", numbers(0, MAX_ENTRIES // 2)))) * 3,
    "edits": box(b"moov", track(stsz(100_000), box(b"elst", numbers(0, 50)))),
    "in the wrong place": box(b"trak", box(b"udta", stsz(MANY))),
    "to the end": struct.pack(">I4s", 0, b"moov") + track(stsz(MANY)),
    "a long size": struct.pack(">I4sQ", 1, b"moov", 16 + len(track(stsz(MANY)))) + track(stsz(MANY)),
    "in padding": box(b"free", box(b"mvhd", bytes(100)), track(stsz(MANY))),
    "pictures that last a unit": box(b"moov", pcm(b"vide")),
    "sound that lasts longer": box(b"moov", pcm(delta=1024)),
    "sound in very many pieces": box(b"moov", pcm(chunks=40_000, a_chunk=102_401)),
    "compressed": box(b"moov", box(b"cmov", bytes(100))),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_is_refused(name: str) -> None:
    with pytest.raises(InvalidMedia):
        check_index(io.BytesIO(box(b"ftyp", b"isom", bytes(4)) + TOO_MUCH[name]))


ENOUGH = {
    "frames": box(b"moov", track(stsz(MAX_ENTRIES))),
    "an hour of PCM": box(b"moov", pcm()),
    "the words among the samples": box(b"mdat", stsz(MANY)) + box(b"moov", track(stsz(10))),
    "a few edits": box(b"moov", track(stsz(200_000), box(b"elst", numbers(0, 3)))),
    "nothing": b"",
}


@pytest.mark.parametrize("name", ENOUGH)
def test_what_is_honest_passes(name: str) -> None:
    check_index(io.BytesIO(box(b"ftyp", b"isom", bytes(4)) + ENOUGH[name]))


def test_a_file_cut_into_very_many_boxes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_MAX_BOXES", 100)
    check_index(io.BytesIO(box(b"skip") * 100))
    with pytest.raises(InvalidMedia, match="too many pieces"):
        check_index(io.BytesIO(box(b"skip") * 101))


@pytest.mark.parametrize("ask", [probe, lambda path: sound.decode(path, max_seconds=9, max_bytes=1 << 20)])
def test_both_ways_in_are_guarded(ask: Callable[[Path], object], tmp_path: Path) -> None:
    path = made(tmp_path / "a.mp4", 5, sound=None)
    with pytest.raises(InvalidMedia, match="claims more than"):
        ask(claiming(path, 20_000_000))


def test_real_pcm_passes(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("pcm_s16le", rate=48_000, layout="mono")
        for at in range(0, MAX_ENTRIES + 48_000, 48_000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48_000, at
            container.mux(stream.encode(frame))
    with path.open("rb") as file:
        check_index(file)
