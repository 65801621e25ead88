"""Frames of any kind brought to one canvas: upright, letterboxed, 8-bit BT.709 in limited range, without alpha."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph
from av.filter.context import FilterContext

from media.combine_source import OURS, PIXEL_FORMAT, UPRIGHT, Look, Matrix, look_of

_TURNS: dict[Matrix, tuple[tuple[str, str], ...]] = {
    (1, 0, 0, 1): (),
    (0, 1, -1, 0): (("transpose", "clock"),),
    (-1, 0, 0, -1): (("hflip", ""), ("vflip", "")),
    (0, -1, 1, 0): (("transpose", "cclock"),),
    (-1, 0, 0, 1): (("hflip", ""),),
    (1, 0, 0, -1): (("vflip", ""),),
    (0, 1, 1, 0): (("transpose", "cclock_flip"),),
    (0, -1, -1, 0): (("transpose", "clock_flip"),),
}

_PRIMARIES_BT2020 = 9
_TRANSFERS_HDR = (16, 18)
"""PQ and HLG (ITU-T H.273, table 3)."""
_UNSAID = (0, 2)
_GRAPHS_KEPT = 4
_HD_LINES = 720
"""From so many lines on, colours that are not said are taken for BT.709, below for BT.601, as browsers do."""


def canvas_of(look: Look) -> tuple[int, int]:
    """Width and height, both even, of a result that begins with frames of this look: an odd last line is left away."""
    width, height = look.shown
    return max(2, width - width % 2), max(2, height - height % 2)


def is_letterboxed(look: Look, canvas: tuple[int, int]) -> bool:
    """Whether black bars are needed to show frames of this look whole on the canvas."""
    return canvas_of(look) != canvas and _inside(look.shown, canvas) != canvas


def is_scaled(look: Look, canvas: tuple[int, int]) -> bool:
    """Whether frames of this look have other pixels than the canvas."""
    return canvas_of(look) != canvas or look.aspect != 1


def is_hdr(look: Look) -> bool:
    """Whether these are colours beyond BT.709, to be mapped to it."""
    primaries, transfer, *_ = look.colours
    return primaries == _PRIMARIES_BT2020 or transfer in _TRANSFERS_HDR


def is_as_encoded(look: Look, canvas: tuple[int, int]) -> bool:
    """Whether frames of this look can be encoded as they are."""
    return look == Look(*canvas, PIXEL_FORMAT, Fraction(1), OURS, UPRIGHT)


class Fitter:
    """Brings frames to `canvas`. It keeps what it has set up for a few looks: mapping HDR takes seconds to begin with."""

    def __init__(self, canvas: tuple[int, int]) -> None:
        self._canvas = canvas
        self._graphs: dict[Look, Graph] = {}

    def fit(self, frame: av.VideoFrame, aspect: Fraction) -> av.VideoFrame:
        """`frame` on the canvas; it may be the very same. `aspect` is the shape of one pixel by the container."""
        look = look_of(frame, aspect)
        if is_as_encoded(look, self._canvas):
            return frame
        graph = self._graphs.get(look)
        if graph is None:
            if len(self._graphs) == _GRAPHS_KEPT:
                del self._graphs[next(iter(self._graphs))]
            graph = self._graphs[look] = _graph(frame, look, self._canvas)
        graph.vpush(frame)
        made = graph.vpull()
        assert isinstance(made, av.VideoFrame)
        return made


def _graph(frame: av.VideoFrame, look: Look, canvas: tuple[int, int]) -> Graph:
    graph = Graph()
    last: FilterContext = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    for name, arguments in _filters(look, canvas):
        following = graph.add(name, arguments)
        last.link_to(following)
        last = following
    last.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _filters(look: Look, canvas: tuple[int, int]) -> Iterator[tuple[str, str]]:
    yield from _TURNS.get(look.matrix, ())
    fitting = canvas_of(look) == canvas and look.aspect == 1
    width, height = look.shown if fitting else _inside(look.shown, canvas)
    yield "scale", f"{width}:{height}:flags=bicubic:{_colours(look)}"
    if "a" in look.pixel_format:
        yield "format", "yuva420p"
        yield "premultiply", "inplace=1"
    yield "format", PIXEL_FORMAT
    if (width, height) != canvas:
        if width > canvas[0] or height > canvas[1]:
            yield "crop", f"{canvas[0]}:{canvas[1]}:0:0"
        else:
            left, top = (canvas[0] - width) // 4 * 2, (canvas[1] - height) // 4 * 2
            yield "pad", f"{canvas[0]}:{canvas[1]}:{left}:{top}"
    yield "setsar", "1"


def _colours(look: Look) -> str:
    primaries, transfer, matrix, _ = look.colours
    parts = ["out_color_matrix=bt709", "out_range=tv"]
    if matrix in _UNSAID and look.pixel_format.startswith(("yuv", "nv", "p0")):
        parts.append(f"in_color_matrix={'bt709' if min(look.shown) >= _HD_LINES else 'bt601'}")
    if is_hdr(look):
        parts += ["out_primaries=bt709", "out_transfer=bt709", "intent=perceptual"]
        parts += ["in_primaries=bt2020"] * (primaries in _UNSAID) + ["in_transfer=bt2020-10"] * (transfer in _UNSAID)
    return ":".join(parts)


def _inside(shown: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """The largest even size of the shape of `shown` within `canvas`."""
    share = min(Fraction(canvas[0], shown[0]), Fraction(canvas[1], shown[1]))
    width, height = (max(2, round(side * share / 2) * 2) for side in shown)
    return min(width, canvas[0]), min(height, canvas[1])
