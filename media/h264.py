"""What an H.264 stream says about itself (ITU-T H.264, sections 7.3 and E.1; the avcC box: ISO/IEC 14496-15, 5.3.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SLICE_IDR, SPS, PPS = 5, 7, 8
_HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
_PREFIX = 4


class BrokenH264(ValueError):
    """The bytes are not what they claim to be."""


@dataclass(frozen=True)
class ParameterSets:
    """What decodes a stream: its sequence and picture parameter sets, and how many bytes give a NAL unit's length."""

    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    prefix: int = _PREFIX

    @classmethod
    def of_avcc(cls, data: bytes) -> ParameterSets:
        """From the avcC box.

        Raises:
            BrokenH264: it is none.
        """
        if len(data) < 7 or data[0] != 1:
            raise BrokenH264("there is no avcC box")
        at, found = 5, []
        for mask in (31, 255):
            count, at, sets = _byte(data, at) & mask, at + 1, []
            for _ in range(count):
                size = _byte(data, at) << 8 | _byte(data, at + 1)
                sets.append(data[at + 2 : at + 2 + size])
                at += 2 + size
            found.append(tuple(sets))
        if at > len(data) or not all(found) or not all(map(all, found)):
            raise BrokenH264("the avcC box is cut off")
        return cls(found[0], found[1], (data[4] & 3) + 1)

    @classmethod
    def of_stream(cls, data: bytes) -> ParameterSets:
        """From NAL units behind start codes, as an encoder gives them."""
        units = list(after_start_codes(data))
        return cls(
            tuple(each for each in units if kind(each) == SPS), tuple(each for each in units if kind(each) == PPS)
        )


@dataclass(frozen=True)
class SequenceParameters:
    """Of a sequence parameter set: frames alone or fields too, and by how many frames decoding may run ahead of showing.

    `reorder` is None where the stream does not say.
    """

    frames_only: bool
    reorder: int | None

    @classmethod
    def of(cls, sps: bytes) -> SequenceParameters:
        """Parsed from `sps`.

        Raises:
            BrokenH264: it ends too early.
        """
        bits = _Bits(sps[1:].replace(b"\0\0\3", b"\0\0"))
        profile = bits.take(8)
        bits.take(16)
        bits.unsigned()
        if profile in _HIGH_PROFILES:
            _skip_high(bits)
        bits.unsigned()
        _skip_order(bits)
        bits.unsigned()
        bits.take(1)
        bits.unsigned()
        bits.unsigned()
        frames_only = bool(bits.take(1))
        bits.take(1 if frames_only else 2)
        if bits.take(1):
            for _ in range(4):
                bits.unsigned()
        return cls(frames_only, _reorder(bits) if bits.take(1) else None)


def kind(unit: bytes) -> int:
    """The NAL unit's type."""
    return unit[0] & 31 if unit else 0


def after_start_codes(data: bytes) -> Iterator[bytes]:
    """NAL units of a byte stream (Annex B)."""
    at = data.find(b"\0\0\1")
    while at >= 0:
        following = data.find(b"\0\0\1", at + 3)
        unit = data[at + 3 :] if following < 0 else data[at + 3 : following].rstrip(b"\0")
        if unit:
            yield unit
        at = following


def after_lengths(data: bytes, prefix: int = _PREFIX) -> Iterator[bytes]:
    """NAL units of an MP4 sample, each behind its length in `prefix` bytes.

    Raises:
        BrokenH264: a length leads beyond the sample.
    """
    at = 0
    while at < len(data):
        end = at + prefix + int.from_bytes(data[at : at + prefix], "big")
        if end > len(data):
            raise BrokenH264("a NAL unit is longer than its sample")
        yield data[at + prefix : end]
        at = end


def with_lengths(units: Iterator[bytes]) -> bytes:
    """NAL units as an MP4 sample, each behind its length in four bytes."""
    return b"".join(len(unit).to_bytes(_PREFIX, "big") + unit for unit in units)


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise BrokenH264("the avcC box is cut off")
    return data[at]


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            if self._at >= 8 * len(self._data):
                raise BrokenH264("the parameter set is cut off")
            value = value << 1 | self._data[self._at >> 3] >> 7 - (self._at & 7) & 1
            self._at += 1
        return value

    def unsigned(self) -> int:
        """An Exp-Golomb code (section 9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        code = self.unsigned()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def _skip_high(bits: _Bits) -> None:
    """Chroma format, bit depths and scaling lists."""
    chroma = bits.unsigned()
    if chroma == 3:
        bits.take(1)
    bits.unsigned()
    bits.unsigned()
    bits.take(1)
    if not bits.take(1):
        return
    for index in range(12 if chroma == 3 else 8):
        if bits.take(1):
            last, following = 8, 8
            for _ in range(16 if index < 6 else 64):
                following = (last + bits.signed()) % 256 if following else 0
                last = following or last


def _skip_order(bits: _Bits) -> None:
    """How pictures are ordered."""
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()


def _reorder(bits: _Bits) -> int | None:
    """max_num_reorder_frames, at the end of the VUI."""
    if bits.take(1) and bits.take(8) == 255:
        bits.take(32)
    if bits.take(1):
        bits.take(1)
    if bits.take(1):
        bits.take(4)
        if bits.take(1):
            bits.take(24)
    if bits.take(1):
        bits.unsigned()
        bits.unsigned()
    if bits.take(1):
        bits.take(65)
    described = False
    for _ in range(2):
        if bits.take(1):
            _skip_hrd(bits)
            described = True
    if described:
        bits.take(1)
    bits.take(1)
    if not bits.take(1):
        return None
    bits.take(1)
    for _ in range(4):
        bits.unsigned()
    return bits.unsigned()


def _skip_hrd(bits: _Bits) -> None:
    count = bits.unsigned() + 1
    bits.take(8)
    for _ in range(count):
        bits.unsigned()
        bits.unsigned()
        bits.take(1)
    bits.take(20)
