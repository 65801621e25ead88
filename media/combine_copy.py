"""Joining clips as planned by copying: the frames in decoding order, their writing, and the check of what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.stream import VideoStream

from media.ahead import ahead
from media.combine_smart import NotSmart, Piece, SmartPlan, head_encoder, places
from media.combine_sound import encoded
from media.combine_source import blamed, opened, picture_of
from media.combine_target import PACKETS_AHEAD, SoundWriter, new_file, sound_stream
from media.combine_timeline import Part
from media.h264 import PPS, SLICE_IDR, SPS, BrokenH264, after_lengths, after_start_codes, kind, with_lengths

_FRAMES_AHEAD = 32
_DECODED_AHEAD = 8


@dataclass(frozen=True)
class Sample:
    """One frame as MP4 stores it, for `slot` of the result; `part` counts the clips."""

    part: int
    slot: int
    is_key: bool
    data: bytes


def write_copied(target: Path, parts: Sequence[Part], plan: SmartPlan, on_clip: Callable[[int, int], None]) -> None:
    """Writes the parts to `target` as planned, and reads it back.

    Raises:
        NotSmart: the streams turned out to be other than planned for; `target` is then worth nothing.
        InvalidMedia: a clip cannot be decoded.
    """
    first = parts[0].source
    done = written = 0
    with (
        new_file(target, plan.fps) as container,
        opened(first.path, first.demuxer) as template,
    ):
        video = container.add_stream_from_template(picture_of(template))
        video.time_base = 1 / plan.fps
        sound = sound_stream(container)
        container.start_encoding()
        with (
            ahead(_samples(plan), _FRAMES_AHEAD) as pictures,
            ahead(encoded(parts, sound.codec_context), PACKETS_AHEAD) as packets,
        ):
            sounds = SoundWriter(container, sound, packets)
            for sample in pictures:
                while done < sample.part:
                    done += 1
                    on_clip(done, len(parts))
                packet = Packet(sample.data)
                packet.stream, packet.time_base, packet.duration = video, 1 / plan.fps, 1
                packet.pts, packet.dts, packet.is_keyframe = sample.slot, written - plan.delay, sample.is_key
                if packet.dts > packet.pts:
                    raise NotSmart("frames run further ahead in decoding order than their streams say")
                written += 1
                container.mux(packet)
                sounds.until(written / plan.fps)
            sounds.rest()
    _verify(target, plan, (first.look.width, first.look.height))
    while done < len(parts):
        done += 1
        on_clip(done, len(parts))


def _samples(plan: SmartPlan) -> Iterator[Sample]:
    """Every frame of the result, in decoding order.

    Raises:
        NotSmart: a stream is not what it seemed to be.
        InvalidMedia: a clip cannot be decoded.
    """
    for at, piece in enumerate(plan.pieces):
        if not piece.part.slots:
            continue
        source = piece.part.source
        if piece.encoded:
            with blamed(source.index), opened(source.path, source.demuxer) as container:
                yield from _head(at, piece, plan, _packets(container))
        with blamed(source.index), opened(source.path, source.demuxer) as container:
            yield from _copied(at, piece, plan, _packets(container))


def _packets(container: InputContainer) -> Iterator[Packet[VideoStream]]:
    for packet in container.demux(picture_of(container)):
        if packet.size:
            yield packet


def _head(at: int, piece: Piece, plan: SmartPlan, packets: Iterator[Packet[VideoStream]]) -> Iterator[Sample]:
    """The frames from the cut up to the keyframe, encoded anew."""
    source = piece.part.source
    encoder = head_encoder(source, plan.fps)
    made = 0
    with ahead(_decoded(piece, packets), _DECODED_AHEAD) as frames:
        for frame in frames:
            place = round((frame.pts * source.time_base - source.start) * plan.fps) if frame.pts is not None else -1
            if not piece.first <= place < piece.key:
                continue
            if place != piece.first + made:
                break
            made += 1
            frame.pts, frame.time_base, frame.pict_type = place, 1 / plan.fps, PictureType.NONE
            for packet in encoder.encode(frame):
                yield _encoded(at, piece, packet)
    if made != piece.encoded:
        raise NotSmart(f"clip {source.index}: frame {piece.first + made} does not decode")
    for packet in encoder.encode(None):
        yield _encoded(at, piece, packet)


def _decoded(piece: Piece, packets: Iterator[Packet[VideoStream]]) -> Iterator[av.VideoFrame]:
    """The frames of the packets from the keyframe before the cut to the keyframe after it."""
    decoder: VideoCodecContext | None = None
    for number, packet in enumerate(packets):
        if number < piece.decoded_from:
            continue
        if decoder is None:
            decoder = packet.stream.codec_context
            decoder.thread_type = "SLICE"
        if number == piece.key:
            break
        yield from decoder.decode(packet)
    if decoder is not None:
        yield from decoder.decode(None)


def _encoded(at: int, piece: Piece, packet: Packet[VideoStream]) -> Sample:
    units = (unit for unit in after_start_codes(bytes(packet)) if kind(unit) not in (SPS, PPS))
    return Sample(at, piece.slot + (packet.pts or 0), packet.is_keyframe, with_lengths(units))


def _copied(at: int, piece: Piece, plan: SmartPlan, packets: Iterator[Packet[VideoStream]]) -> Iterator[Sample]:
    """The packets from the keyframe on, as they are."""
    source = piece.part.source
    numbers = places(source, plan.fps)
    known = plan.sets.sps + plan.sets.pps
    number = -1
    for number, packet in enumerate(packets):
        if number < piece.key:
            continue
        data = bytes(packet)
        try:
            units = list(after_lengths(data))
        except BrokenH264 as problem:
            raise NotSmart(f"clip {source.index}: {problem}") from problem
        if packet.has_sidedata("new_extradata") or any(unit not in known for unit in units if kind(unit) in (SPS, PPS)):
            raise NotSmart(f"clip {source.index}: its parameter sets change")
        if number == piece.key and SLICE_IDR not in {kind(unit) for unit in units}:
            raise NotSmart(f"clip {source.index}: frame {piece.key} is no IDR picture")
        yield Sample(at, piece.slot + numbers[number], packet.is_keyframe, data)
    if number + 1 != len(numbers):
        raise NotSmart(f"clip {source.index}: it was read to another end the second time")


def _verify(target: Path, plan: SmartPlan, canvas: tuple[int, int]) -> None:
    """Reads the written file back, without decoding it.

    Raises:
        NotSmart: it has other frames than planned, or not in order.
    """
    frames = plan.encoded + plan.copied
    with av.open(str(target), format="mov") as container:
        stream = container.streams.video[0]
        size, rate = (stream.codec_context.width, stream.codec_context.height), stream.average_rate
        times, last = bytearray(frames), None
        scale = (stream.time_base or Fraction(1)) * plan.fps
        for packet in container.demux(stream):
            if not packet.size:
                continue
            slot = None if packet.pts is None else packet.pts * scale
            if slot is None or slot.denominator != 1 or not 0 <= slot < frames or times[int(slot)] or packet.is_corrupt:
                raise NotSmart("the written file has a frame at a wrong time")
            if packet.dts is None or (last is not None and packet.dts <= last):
                raise NotSmart("the written file's frames are not in decoding order")
            times[int(slot)], last = 1, packet.dts
    if size != canvas or rate != plan.fps or not all(times):
        raise NotSmart("the written file lacks frames, or its size or rate are other than planned")
