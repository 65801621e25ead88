"""How frames become H.264 when clips are joined: one set of settings, so that all that is made fits together."""

from __future__ import annotations

from fractions import Fraction

from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext

PRESET, CRF = "veryfast", "18"
PIXEL_FORMAT = "yuv420p"
BT709_LIMITED = (1, 1, 1, 1)
"""Primaries, transfer, matrix, range (ITU-T H.273; the range as FFmpeg numbers it)."""


def set_up(context: VideoCodecContext, width: int, height: int, fps: Fraction) -> None:
    """Makes `context`, of libx264 and not yet open, one for frames of that size: a keyframe each second or earlier."""
    context.width, context.height, context.pix_fmt = width, height, PIXEL_FORMAT
    context.framerate, context.time_base = fps, 1 / fps
    context.color_primaries, context.color_trc, context.colorspace, context.color_range = BT709_LIMITED
    context.gop_size = max(1, round(fps))
    context.options = {"preset": PRESET, "crf": CRF}
    context.flags |= Flags.global_header
