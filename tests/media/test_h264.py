from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from av.codec.context import Flags
from hypothesis import given
from hypothesis import strategies as st

from media.h264 import (
    PPS,
    SPS,
    BrokenH264,
    ParameterSets,
    SequenceParameters,
    after_lengths,
    after_start_codes,
    kind,
    with_lengths,
)
from tests.media.numbered_clips import made


def stored(path: Path) -> bytes:
    with av.open(str(path)) as container:
        return bytes(container.streams.video[0].codec_context.extradata or b"")


@pytest.mark.parametrize(
    ("parameters", "reorder", "frames_only"),
    [
        ("bframes=0", 0, True),
        ("bframes=1", 1, True),
        ("bframes=3:b-pyramid=normal", 2, True),
        ("bframes=3:b-pyramid=none", 1, True),
        ("tff=1:bframes=0", 0, False),
        ("nal-hrd=vbr:vbv-maxrate=900:vbv-bufsize=900:bframes=2:b-pyramid=none:aud=1", 1, True),
        ("cqm=jvt:bframes=0", 0, True),
    ],
)
def test_it_reads_what_an_encoder_says(parameters: str, reorder: int, frames_only: bool, tmp_path: Path) -> None:
    path = made(tmp_path / "a.mp4", 4, options={"preset": "veryfast", "x264-params": parameters}, sound=None)
    sets = ParameterSets.of_avcc(stored(path))
    assert (len(sets.sps), len(sets.pps), sets.prefix) == (1, 1, 4)
    assert (kind(sets.sps[0]), kind(sets.pps[0])) == (SPS, PPS)
    assert SequenceParameters.of(sets.sps[0]) == SequenceParameters(frames_only, reorder)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_every_profile_and_cropped_sizes_are_read(pixel_format: str, tmp_path: Path) -> None:
    options = {"preset": "veryfast", "bf": "2"}
    path = made(tmp_path / "a.mp4", 4, size=(162, 98), options=options, pixel_format=pixel_format, sound=None)
    assert SequenceParameters.of(ParameterSets.of_avcc(stored(path)).sps[0]) == SequenceParameters(True, 2)


def test_a_baseline_stream_without_further_words_says_no_order() -> None:
    assert SequenceParameters.of(bytes.fromhex("6742c00aa61129100000")) is not None


def test_the_sets_in_a_box_are_those_of_the_stream_and_are_missed_when_cut_off() -> None:
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = 160, 96, "yuv420p"
    context.framerate, context.time_base = Fraction(25), Fraction(1, 25)
    context.flags |= Flags.global_header
    context.open()
    units = ParameterSets.of_stream(bytes(context.extradata or b""))
    sps, pps = units.sps[0], units.pps[0]
    box = b"\1" + sps[1:4] + b"\xff\xe1" + len(sps).to_bytes(2, "big") + sps + b"\1" + len(pps).to_bytes(2, "big") + pps
    assert ParameterSets.of_avcc(box) == units
    for size in range(len(box)):
        with pytest.raises(BrokenH264):
            ParameterSets.of_avcc(box[:size])
    for size in range(1, len(sps) - 2):
        with pytest.raises(BrokenH264):
            SequenceParameters.of(sps[:size])


@given(st.binary(max_size=60))
def test_junk_is_refused_or_read_but_never_breaks(data: bytes) -> None:
    for read in (ParameterSets.of_avcc, SequenceParameters.of, lambda given: list(after_lengths(given))):
        try:
            read(data)
        except BrokenH264:
            continue


@given(st.lists(st.binary(min_size=1, max_size=40)))
def test_units_behind_lengths_come_back(units: list[bytes]) -> None:
    assert list(after_lengths(with_lengths(iter(units)))) == units


@given(st.lists(st.binary(min_size=1, max_size=40).map(lambda unit: unit.replace(b"\0", b"\1")), min_size=1))
def test_units_behind_start_codes_come_back(units: list[bytes]) -> None:
    assert list(after_start_codes(b"".join(b"\0\0\0\1" + unit for unit in units))) == units
    assert list(after_start_codes(b"\0" + b"".join(b"\0\0\1" + unit for unit in units))) == units


def test_a_length_beyond_the_sample_is_refused() -> None:
    with pytest.raises(BrokenH264, match="longer than its sample"):
        list(after_lengths(b"\0\0\0\5abcd"))
    assert list(after_lengths(b"\0\3abc\0\1d", 2)) == [b"abc", b"d"]
