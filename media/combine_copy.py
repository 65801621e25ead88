"""Joining clips as planned by copying: the frames in decoding order, their writing, and the check of what was written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from threading import Event

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
from media.combine_target import PACKETS_AHEAD, WORKERS, SoundWriter, new_file, sound_stream
from media.combine_timeline import Part
from media.h264 import PPS, SLICE_IDR, SPS, BrokenH264, after_lengths, after_start_codes, kind, with_lengths

_FRAMES_AHEAD = 32


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
    """Every frame of the result, in decoding order; a few heads are encoded at once, before their turn.

    Raises:
        NotSmart: a stream is not what it seemed to be.
        InvalidMedia: a clip cannot be decoded.
    """
    stopped = Event()
    waiting = iter(enumerate(plan.pieces))
    heads: deque[Future[list[Sample]]] = deque()
    pool = ThreadPoolExecutor(WORKERS, "head")
    try:
        for at, piece in enumerate(plan.pieces):
            for following in islice(waiting, WORKERS + 1 - len(heads)):
                heads.append(pool.submit(_head, *following, plan, stopped))
            yield from heads.popleft().result()
            yield from _copied(at, piece, plan)
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _packets(container: InputContainer) -> Iterator[Packet[VideoStream]]:
    for packet in container.demux(picture_of(container)):
        if packet.size:
            yield packet


def _head(at: int, piece: Piece, plan: SmartPlan, stopped: Event) -> list[Sample]:
    """The frames from the cut up to the keyframe, encoded anew."""
    if not piece.encoded:
        return []
    source = piece.part.source
    encoder = head_encoder(source, plan.fps)
    made: list[Packet[VideoStream]] = []
    count = 0
    with blamed(source.index), opened(source.path, source.demuxer) as container:
        for frame in _decoded(piece, _packets(container)):
            place = round((frame.pts * source.time_base - source.start) * plan.fps) if frame.pts is not None else -1
            if not piece.first <= place < piece.key:
                continue
            if stopped.is_set() or place != piece.first + count:
                break
            count += 1
            frame.pts, frame.time_base, frame.pict_type = place, 1 / plan.fps, PictureType.NONE
            made += encoder.encode(frame)
    if count != piece.encoded:
        raise NotSmart(f"clip {source.index}: frame {piece.first + count} does not decode")
    return [_encoded(at, piece, packet) for packet in [*made, *encoder.encode(None)]]


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


def _copied(at: int, piece: Piece, plan: SmartPlan) -> Iterator[Sample]:
    """The packets from the keyframe on, as they are."""
    if not piece.copied:
        return
    source = piece.part.source
    with blamed(source.index), opened(source.path, source.demuxer) as container:
        yield from _checked(at, piece, plan, _packets(container))


def _checked(at: int, piece: Piece, plan: SmartPlan, packets: Iterator[Packet[VideoStream]]) -> Iterator[Sample]:
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
