"""Whether and how clips are joined by copying: only frames from a cut to the next keyframe are encoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext

from media.combine_source import OURS, PIXEL_FORMAT, UPRIGHT, Source
from media.combine_timeline import Part
from media.h264 import BrokenH264, ParameterSets, SequenceParameters
from media.video import configure

_HEAD_SEARCH = "me=dia:subme=1:partitions=none:b-adapt=0:scenecut=0"


class NotSmart(Exception):
    """The clips cannot be joined by copying; the message says why."""


@dataclass(frozen=True)
class Piece:
    """One part's way into the result: its frames from `first` on are encoded anew up to, without, `key`, the rest is copied.

    Frame `key`, like `decoded_from`, where decoding for the head begins, is also the packet of that number: just the frames
    before it are before it in decoding order. `slot` is where frame 0 would be.
    """

    part: Part
    first: int
    key: int
    decoded_from: int
    slot: int

    @property
    def encoded(self) -> int:
        """How many frames are encoded anew."""
        return self.key - self.first

    @property
    def copied(self) -> int:
        """How many frames are copied."""
        return self.part.source.frames - self.key


@dataclass(frozen=True)
class SmartPlan:
    """What is copied and what is not. `delay` is by how many frames decoding runs ahead of showing."""

    pieces: tuple[Piece, ...]
    sets: ParameterSets
    fps: Fraction
    delay: int

    @property
    def encoded(self) -> int:
        """How many frames are encoded anew."""
        return sum(piece.encoded for piece in self.pieces)

    @property
    def copied(self) -> int:
        """How many frames are copied."""
        return sum(piece.copied for piece in self.pieces)


def smart_plan(parts: Sequence[Part], fps: Fraction) -> SmartPlan:
    """How the clips are joined by copying at `fps`.

    Raises:
        NotSmart: they cannot be.
    """
    for part in parts:
        _check_alike(part.source, parts[0].source, fps)
    try:
        sets = ParameterSets.of_avcc(parts[0].source.extradata)
        sequences = [SequenceParameters.of(sps) for sps in sets.sps]
    except BrokenH264 as problem:
        raise NotSmart(f"clip 0: {problem}") from problem
    if len(sets.sps) != 1 or sets.prefix != 4:
        raise NotSmart("clip 0: several parameter sets, or lengths of other than four bytes")
    if not sequences[0].frames_only:
        raise NotSmart("the picture is interlaced")
    pieces = tuple(_piece(part, fps) for part in parts)
    delay = max(_depth(part.source, fps) for part in parts)
    if any(piece.encoded for piece in pieces):
        if parts[0].source.look.colours != OURS or parts[0].source.look.aspect != 1:
            raise NotSmart("heads would be encoded with other tags")
        made = head_encoder(parts[0].source, fps)
        if ParameterSets.of_stream(bytes(made.extradata or b"")) != sets:
            raise NotSmart("heads would be encoded with other parameter sets")
        delay = max(delay, sequences[0].reorder if sequences[0].reorder is not None else delay)
    return SmartPlan(pieces, sets, fps, delay)


def head_encoder(source: Source, fps: Fraction) -> VideoCodecContext:
    """An open encoder for frames of `source`.

    It searches less than the one of whole clips: half the time, 0.06 dB less in 6 % fewer bytes on a photograph that moves.
    """
    context = VideoCodecContext.create("libx264", "w")
    configure(context, width=source.look.width, height=source.look.height, fps=fps, threads=1)
    context.options = {**context.options, "x264-params": _HEAD_SEARCH}
    context.flags |= Flags.global_header
    context.open()
    return context


def _check_alike(source: Source, first: Source, fps: Fraction) -> None:
    """Raises NotSmart unless the clip could be copied behind the first."""
    look = source.look
    if source.codec != "h264" or source.demuxer != "mov":
        why = f"{source.codec} is not H.264 in MP4"
    elif look.pixel_format != PIXEL_FORMAT:
        why = f"its pixels are {look.pixel_format}"
    elif look.matrix != UPRIGHT:
        why = "it is turned when it is shown"
    elif look != first.look:
        why = "its size, pixel shape or colours are not those of the first"
    elif source.rate != fps:
        why = f"its rate is {source.rate or 'not constant'}, and the result's {fps}"
    elif source.trimmed:
        why = "an edit list hides some of its frames"
    elif source.extradata != first.extradata:
        why = "its parameter sets are not those of the first"
    elif any(size % 2 for size in look.shown):
        why = "a side is odd"
    else:
        return
    raise NotSmart(f"clip {source.index}: {why}")


def places(source: Source, fps: Fraction) -> list[int]:
    """The number of each packet's frame, in decoding order."""
    scale, begin = source.time_base * fps, source.start / source.time_base
    up, down, start = scale.numerator, scale.denominator, int(begin)
    return [(2 * (time - start) * up + down) // (2 * down) for time in source.pts]


def _depth(source: Source, fps: Fraction) -> int:
    """By how many frames decoding runs ahead of showing in this clip."""
    return max(at - place for at, place in enumerate(places(source, fps)))


def _piece(part: Part, fps: Fraction) -> Piece:
    source = part.source
    numbers = places(source, fps)
    if sorted(numbers) != list(range(source.frames)):
        raise NotSmart(f"clip {source.index}: a frame is missing or there twice")
    first = part.frame_at(part.first_slot, fps) if part.slots else source.frames
    if first + part.slots != source.frames:
        raise NotSmart(f"clip {source.index}: its frames do not fill its place one to one")
    closed = _closed(source, numbers)
    if not closed or closed[0]:
        raise NotSmart(f"clip {source.index}: it does not begin with a keyframe")
    key = next((at for at in closed if at >= first), source.frames)
    return Piece(part, first, key, max(at for at in closed if at <= first), part.first_slot - first)


def _closed(source: Source, numbers: list[int]) -> list[int]:
    """The packets that are keyframes behind which no earlier frame follows, and before which no later one stands."""
    found, least = [], len(numbers)
    for at in range(len(numbers) - 1, -1, -1):
        least = min(least, numbers[at])
        if source.keys[at] and least == numbers[at] == at:
            found.append(at)
    return found[::-1]
