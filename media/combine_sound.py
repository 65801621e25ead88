"""The sound of clips joined: each placed by its own picture's time, and all one stream that is encoded without a seam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain

import av
import numpy as np
import numpy.typing as npt
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet

from core.money import round_half_up
from media.clip import SAMPLE_RATE
from media.combine_source import Source, blamed, check_sound, opened
from media.combine_timeline import Part

GAP = Fraction(1, 50)
"""Seconds. Coarse clocks round the time of each packet of sound; one that is further off than this is believed."""

_BLOCK = 4096

Block = npt.NDArray[np.float32]


def encoded(parts: Sequence[Part], context: AudioCodecContext) -> Iterator[Packet[AudioStream]]:
    """The packets of all parts' sound.

    Raises:
        InvalidMedia: the sound of a clip cannot be decoded.
    """
    written = 0
    for block in _of_one_size(chain.from_iterable(map(sound_of, parts))):
        frame = AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, written, Fraction(1, SAMPLE_RATE)
        written += block.shape[1]
        yield from context.encode(frame)
    yield from context.encode(None)


def sound_of(part: Part) -> Iterator[Block]:
    """The samples of one part, float32 of shape (2, n), block by block: neither fewer nor more than it has room for.

    Raises:
        InvalidMedia: the sound of the clip cannot be decoded.
    """
    room = part.end_sample - part.first_sample
    written = 0
    if part.source.has_sound:
        skipped = round_half_up(part.cut * SAMPLE_RATE)
        for place, block in _placed(part.source):
            at = place - skipped
            if at >= room:
                break
            if at > written:
                yield from _silence(at - written)
                written = at
            kept = block[:, max(0, written - at) : max(0, room - at)]
            if kept.shape[1]:
                yield kept
                written += kept.shape[1]
    yield from _silence(room - written)


def _silence(count: int) -> Iterator[Block]:
    while count > 0:
        yield np.zeros((2, min(count, SAMPLE_RATE)), np.float32)
        count -= SAMPLE_RATE


def _of_one_size(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same samples, joined into blocks of one size, the last excepted."""
    held: list[Block] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += block.shape[1]
        if count < _BLOCK:
            continue
        joined = np.concatenate(held, axis=1)
        for at in range(0, count - _BLOCK + 1, _BLOCK):
            yield np.ascontiguousarray(joined[:, at : at + _BLOCK])
        count %= _BLOCK
        held = [joined[:, joined.shape[1] - count :]]
    if count:
        yield np.concatenate(held, axis=1)


def _placed(source: Source) -> Iterator[tuple[int, Block]]:
    """Blocks at 48 kHz, each with its place after the first frame of the picture, in samples.

    Samples are counted from the first one on; where the file's own time says otherwise by more than `GAP`, it is believed.
    """
    with blamed(source.index), opened(source.path, source.demuxer) as container:
        stream = container.streams.audio[0]
        resampler: av.AudioResampler | None = None
        form: tuple[str, str, int] | None = None
        expected = Fraction(0)
        place = 0
        for frame in container.decode(stream):
            time = expected
            if frame.pts is not None and frame.time_base is not None:
                time = frame.pts * frame.time_base - source.start
            its_form = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or its_form != form or abs(time - expected) > GAP:
                check_sound(frame.sample_rate, frame.layout.nb_channels)
                if resampler is not None:
                    for block in _drained(resampler, None):
                        yield place, block
                        place += block.shape[1]
                resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SAMPLE_RATE)
                form, expected, place = its_form, time, round_half_up(time * SAMPLE_RATE)
            expected += Fraction(frame.samples, frame.sample_rate)
            frame.pts = None
            for block in _drained(resampler, frame):
                yield place, block
                place += block.shape[1]
        if resampler is not None:
            for block in _drained(resampler, None):
                yield place, block
                place += block.shape[1]


def _drained(resampler: av.AudioResampler, frame: AudioFrame | None) -> Iterator[Block]:
    for made in resampler.resample(frame):
        yield made.to_ndarray().astype(np.float32, copy=False)
