"""When each clip is on: where it begins in the result, which frames it gives, which samples of sound.

All of it is exact. The result has slots for frames, one after another at its rate; a slot shows what is on at its middle:
the clip that is, and of that clip the latest frame. So rounding never adds up: at any joint the picture is within half a
frame of its sound, and frames at the result's own rate go over one to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from core.money import round_half_up
from media.clip import SAMPLE_RATE, sound_samples
from media.combine_source import Source, named, place
from media.errors import OverlapTooLong

_HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Part:
    """One clip in its place: it is on from `begins` seconds, without its first `cut` seconds.

    It fills the slots `first_slot` up to, without, `end_slot`, and the samples likewise.
    """

    source: Source
    begins: Fraction
    cut: Fraction
    first_slot: int
    end_slot: int
    first_sample: int
    end_sample: int

    @property
    def slots(self) -> int:
        """How many frames it gives."""
        return self.end_slot - self.first_slot

    def middle(self, slot: int, fps: Fraction) -> Fraction:
        """The middle of `slot` in the clip's own time, in seconds."""
        return (slot + _HALF) / fps - self.begins + self.cut

    def frame_at(self, slot: int, fps: Fraction) -> int:
        """The frame that `slot` shows, when the clip has the result's rate."""
        return int(self.middle(slot, fps) * fps)


def timeline(sources: Sequence[Source], cut: Fraction, fps: Fraction) -> tuple[Part, ...]:
    """The clips one after another, each after the first without its first `cut` seconds, at `fps` frames a second.

    Raises:
        OverlapTooLong: a clip after the first is no longer than `cut`.
    """
    begins = [Fraction(0)]
    cuts = [Fraction(0), *[cut] * (len(sources) - 1)]
    for source, its_cut in zip(sources, cuts, strict=True):
        if its_cut and its_cut >= source.length:
            too_long = OverlapTooLong(
                named(
                    source.index,
                    f"the clip lasts {float(source.length):.3f} s, and {float(its_cut):.3f} s are to be cut from its head; "
                    "send a longer clip or fewer overlapFrames.",
                )
            )
            too_long.path = place(source.index)
            raise too_long
        begins.append(begins[-1] + source.length - its_cut)
    slots = [ceil(begin * fps - _HALF) for begin in begins]
    slots[-1] = max(slots[-1], 1)
    total = sound_samples(slots[-1], fps)
    samples = [*(min(round_half_up(begin * SAMPLE_RATE), total) for begin in begins[:-1]), total]
    return tuple(
        Part(source, begins[at], cuts[at], slots[at], slots[at + 1], samples[at], samples[at + 1])
        for at, source in enumerate(sources)
    )
