"""The file that clips are joined into, and the writing of its sound in step with the picture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from math import lcm
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from media.clip import SAMPLE_RATE
from media.video import SOUND_BITS

PACKETS_AHEAD = 64
"""So many packets of sound are encoded before they are due."""
WORKERS = min(4, len(os.sched_getaffinity(0)))
"""So many clips are looked at, or heads encoded, at once."""

_MAX_TIME_SCALE = 1 << 31


def new_file(target: Path, fps: Fraction) -> OutputContainer:
    """An mp4 whose index comes first, and whose edit lists are exact for frames at `fps` and for samples."""
    scale = lcm(SAMPLE_RATE, fps.numerator)
    options = {
        "movflags": "+faststart",
        "movie_timescale": str(scale if scale < _MAX_TIME_SCALE else SAMPLE_RATE),
        "fflags": "+bitexact",
    }
    return av.open(str(target), "w", format="mp4", options=options)


def sound_stream(container: OutputContainer) -> AudioStream:
    """A stream for all sound: AAC, 48 kHz, stereo."""
    stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
    stream.bit_rate = SOUND_BITS
    return stream


class SoundWriter:
    """Writes packets of sound in step with the picture."""

    def __init__(self, container: OutputContainer, stream: AudioStream, packets: Iterator[Packet[AudioStream]]) -> None:
        self._container = container
        self._stream = stream
        self._packets = packets
        self._next = next(packets, None)

    def until(self, seconds: Fraction) -> None:
        """Writes all that begins before."""
        while self._next is not None and (self._next.pts or 0) < seconds * SAMPLE_RATE:
            self._write(self._next)

    def rest(self) -> None:
        """Writes all that is left."""
        while self._next is not None:
            self._write(self._next)

    def _write(self, packet: Packet[AudioStream]) -> None:
        packet.stream = self._stream
        self._container.mux(packet)
        self._next = next(self._packets, None)
