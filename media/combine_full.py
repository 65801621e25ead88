"""Joining clips by encoding every frame anew, whatever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from media.ahead import ahead
from media.combine_fit import Fitter
from media.combine_sound import encoded
from media.combine_source import Source, blamed, named, opened, picture_of
from media.combine_target import PACKETS_AHEAD, SoundWriter, new_file, sound_stream
from media.combine_timeline import Part
from media.errors import InvalidMedia
from media.video import configure

_FRAMES_AHEAD = 4
_ALPHA_DECODERS = {"vp9": "libvpx-vp9", "vp8": "libvpx", "libvpx-vp9": "libvpx-vp9", "libvpx": "libvpx"}


def write_encoded(
    target: Path, parts: Sequence[Part], canvas: tuple[int, int], fps: Fraction, on_clip: Callable[[int, int], None]
) -> None:
    """Writes the parts to `target`, each of its frames encoded anew.

    Raises:
        InvalidMedia: a clip cannot be decoded.
    """
    with new_file(target, fps) as container:
        video = container.add_stream("libx264", rate=fps)
        configure(video.codec_context, width=canvas[0], height=canvas[1], fps=fps)
        sound = sound_stream(container)
        container.start_encoding()
        with (
            ahead(_frames(parts, canvas, fps), _FRAMES_AHEAD) as frames,
            ahead(encoded(parts, sound.codec_context), PACKETS_AHEAD) as packets,
        ):
            sounds = SoundWriter(container, sound, packets)
            done = 0
            for at, slot, frame in frames:
                while done < at:
                    done += 1
                    on_clip(done, len(parts))
                frame.pts, frame.time_base, frame.pict_type = slot, 1 / fps, PictureType.NONE
                container.mux(video.encode(frame))
                sounds.until(slot / fps)
            container.mux(video.encode(None))
            sounds.rest()
        while done < len(parts):
            done += 1
            on_clip(done, len(parts))


def _frames(parts: Sequence[Part], canvas: tuple[int, int], fps: Fraction) -> Iterator[tuple[int, int, av.VideoFrame]]:
    """Every slot of the result with its part's number and its frame."""
    fitter = Fitter(canvas)
    for at, part in enumerate(parts):
        aspect = part.source.look.aspect
        slot = part.first_slot
        on: av.VideoFrame | None = None
        fitted: av.VideoFrame | None = None
        with blamed(part.source.index):
            for time, frame in _decoded(part.source):
                while on is not None and slot < part.end_slot and part.middle(slot, fps) < time:
                    fitted = fitted or fitter.fit(on, aspect)
                    yield at, slot, fitted
                    slot += 1
                if slot == part.end_slot:
                    break
                on, fitted = frame, None
            if on is None and slot < part.end_slot:
                raise InvalidMedia(named(part.source.index, "no frame can be decoded; send a clip that plays."))
            for last in range(slot, part.end_slot):
                assert on is not None
                fitted = fitted or fitter.fit(on, aspect)
                yield at, last, fitted


def _decoded(source: Source) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """The clip's frames with their times in seconds, at the places of its rate if that is constant."""
    time = -1 / source.mean_rate
    with opened(source.path, source.demuxer) as container:
        stream = picture_of(container)
        decoder = stream.codec_context
        if source.has_alpha and source.codec in _ALPHA_DECODERS:
            decoder = cast(VideoCodecContext, CodecContext.create(_ALPHA_DECODERS[source.codec], "r"))
        decoder.thread_type = "AUTO"
        for packet in container.demux(stream):
            for frame in decoder.decode(packet):
                time += 1 / source.mean_rate
                if frame.pts is not None:
                    time = frame.pts * source.time_base - source.start
                if source.rate is not None:
                    time = round(time * source.rate) / source.rate
                if time >= 0:
                    yield time, frame
