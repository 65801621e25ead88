from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.errors import MezzanineBroken
from media.mezzanine import MezzanineWriter, Writable, flac, read, unflac
from tests.media.clips import Planes, chunk, chunks, clicks, made, number

FPS = Fraction(25)


class WriteOnly:
    """A target like a store's draft: it can be written, and nothing else."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.largest = 0

    def write(self, data: bytes) -> None:
        self.content += data
        self.largest = max(self.largest, len(data))


class ReadOnly:
    """A source like a store's stream, which gives fewer bytes than asked for."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 1000))


def write_all(
    target: Writable, source: Iterator[Planes], width: int = 128, height: int = 96, fps: Fraction = FPS
) -> None:
    with MezzanineWriter(target, width, height, fps) as writer:
        for each in source:
            writer.write(each)


def written(source: Iterator[Planes], width: int = 128, height: int = 96, fps: Fraction = FPS) -> bytes:
    target = WriteOnly()
    write_all(target, source, width, height, fps)
    return bytes(target.content)


@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 121])
def test_every_frame_comes_back_in_order(frames: int) -> None:
    found = list(read(ReadOnly(written(chunks(frames))), frames=frames))
    assert [len(each) for each in found] == [16] * (frames // 16) + [frames % 16] * (frames % 16 > 0)
    assert [number(each[:96]) for each in np.concatenate(found)] == list(range(frames))


@pytest.mark.parametrize("size", [(128, 96), (130, 98), (1280, 704), (64, 34)])
def test_the_picture_is_kept(size: tuple[int, int]) -> None:
    noisy = np.random.default_rng(1).normal(0, 4, (3, size[1] * 3 // 2, size[0]))
    before = (chunk([0, 1, 2], *size) + noisy).clip(16, 235).round().astype(np.uint8)
    after = np.concatenate(list(read(io.BytesIO(written(iter([before]), *size)), frames=3)))
    error = np.mean((after.astype(float) - before) ** 2)
    assert 10 * np.log10(255**2 / error) >= 45


def test_all_frames_are_key_frames_and_say_their_colours_and_rate() -> None:
    with av.open(io.BytesIO(written(chunks(20), fps=Fraction(30000, 1001))), "r") as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        assert abs(stream.average_rate - Fraction(30000, 1001)) < Fraction(1, 100)
        context = stream.codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        assert all(packet.is_keyframe for packet in container.demux(stream) if packet.size)


def test_the_same_frames_give_the_same_bytes() -> None:
    assert written(chunks(20)) == written(chunks(20))


def test_chunks_are_independent_arrays() -> None:
    first, second = read(io.BytesIO(written(chunks(32))), frames=32)
    kept = first.copy()
    second[:] = 0
    assert (first == kept).all()


def test_it_is_written_as_it_comes() -> None:
    target = WriteOnly()
    with MezzanineWriter(target, 128, 96, FPS) as writer:
        sizes = []
        for each in chunks(160):
            writer.write(each)
            sizes.append(len(target.content))
    assert sizes[4] > len(target.content) / 4
    assert target.largest < 1 << 20


def test_reading_holds_no_list_of_frames() -> None:
    data = written(chunks(320, 640, 352), 640, 352)
    tracemalloc.start()
    try:
        assert sum(len(each) for each in read(io.BytesIO(data))) == 320
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 16 * 640 * 352 * 3 // 2


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.98])
def test_a_cut_off_file_is_broken(share: float) -> None:
    data = written(chunks(40))
    with pytest.raises(MezzanineBroken):
        list(read(io.BytesIO(data[: int(len(data) * share)]), frames=40))


@pytest.mark.parametrize("start", [200, 700, 5000])
def test_a_damaged_file_is_broken_or_another_picture_but_no_crash(start: int) -> None:
    data = bytearray(written(chunks(40)))
    data[start : start + 400] = bytes(400)
    with pytest.raises(MezzanineBroken):
        list(read(io.BytesIO(bytes(data)), frames=40))


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"\x1a\x45\xdf\xa3" * 100, b"{}", b"RIFF\0\0\0\0WAVEfmt " * 9])
def test_junk_is_broken(content: bytes) -> None:
    with pytest.raises(MezzanineBroken):
        list(read(io.BytesIO(content)))


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx265")])
def test_foreign_files_are_broken(name: str, codec: str, tmp_path: Path) -> None:
    content = made(tmp_path / name, 5, codec=codec).read_bytes()
    with pytest.raises(MezzanineBroken):
        list(read(io.BytesIO(content)))


def test_another_number_of_frames_is_broken() -> None:
    with pytest.raises(MezzanineBroken, match="has 20 frames, 21 expected"):
        list(read(io.BytesIO(written(chunks(20))), frames=21))


def test_nothing_is_written_after_an_abort() -> None:
    target = WriteOnly()
    writer = MezzanineWriter(target, 128, 96, FPS)
    writer.write(chunk(range(16)))
    before = len(target.content)
    writer.abort()
    writer.abort()
    assert len(target.content) == before
    with pytest.raises(ValueError, match="closed"):
        writer.write(chunk([1]))


def test_an_exception_inside_aborts() -> None:
    target = WriteOnly()

    def broken() -> Iterator[Planes]:
        yield chunk(range(16))
        before.append(len(target.content))
        raise ZeroDivisionError

    before: list[int] = []
    with pytest.raises(ZeroDivisionError):
        write_all(target, broken())
    assert [len(target.content)] == before


class Full:
    """A target whose disk is full after some bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.calls_after = 0

    def write(self, data: bytes) -> None:
        if self.room <= 0:
            self.calls_after += 1
        self.room -= len(data)
        if self.room <= 0:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("room", [0, 1, 20_000, 60_000])
def test_the_targets_own_failure_comes_through_once(room: int) -> None:
    target = Full(room)
    with pytest.raises(OSError, match="No space left"):
        write_all(target, chunks(160))
    assert target.calls_after <= (room == 0)


class Away:
    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int) -> bytes:
        if self._file.tell() > 20_000:
            raise ConnectionResetError("the store is away")
        return self._file.read(size)


def test_the_sources_own_failure_comes_through() -> None:
    with pytest.raises(ConnectionResetError, match="the store is away"):
        list(read(Away(written(chunks(160))), frames=160))


@pytest.mark.parametrize("size", [(127, 96), (128, 95), (0, 0), (-2, 2)])
def test_odd_canvases_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="even"):
        MezzanineWriter(WriteOnly(), *size, FPS)


def test_other_chunks_are_refused() -> None:
    with MezzanineWriter(WriteOnly(), 128, 96, FPS) as writer:
        writer.write(chunk([0]))
        others: list[Any] = [chunk([0], 96, 128), chunk([0])[0], chunk([0]).astype(np.float32)]
        for wrong in others:
            with pytest.raises(ValueError, match="needed"):
                writer.write(wrong)


class TestSound:
    @pytest.mark.parametrize("samples", [1, 100, 4096, 48_000, 48_001, 290_401])
    def test_comes_back_to_24_bits(self, samples: int) -> None:
        before = np.random.default_rng(2).uniform(-1, 1, (2, samples)).astype(np.float32)
        after = unflac(flac(before))
        assert after.shape == (2, samples)
        assert after.dtype == np.float32
        assert np.abs(after - before).max() <= 2**-23

    def test_comes_back_exactly_the_second_time(self) -> None:
        once = unflac(flac(clicks(50, FPS)))
        assert (unflac(flac(once)) == once).all()

    def test_is_clipped(self) -> None:
        loud = np.array([[2, -2, 1], [0, 0, -1]], np.float32)
        assert np.abs(unflac(flac(loud)) - loud.clip(-1, 1)).max() < 1e-6

    def test_cut_off_or_foreign_is_broken(self) -> None:
        data = flac(clicks(50, FPS))
        for wrong in (b"", data[:100], data[: len(data) // 2], data[:-1], b"RIFF" + data, written(chunks(3))):
            with pytest.raises(MezzanineBroken):
                unflac(wrong)

    @pytest.mark.parametrize("shape", [(2, 0), (1, 10), (10, 2), (10,)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="needed"):
            flac(np.zeros(shape, np.float32))
