from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.caps import Caps


@dataclass(frozen=True)
class Picture:
    width: int
    height: int
    steps: int = 30
    prompt: str = "a fox"


@dataclass(frozen=True)
class Sound:
    seconds: float


SIDES = st.integers(1, 128).map(lambda number: number * 32)


def test_without_caps_a_request_stays_the_object_it_is() -> None:
    asked = Picture(4096, 4096, 45)
    assert Caps(None, None).applied(asked) is asked


def test_a_request_within_the_caps_is_not_touched() -> None:
    asked = Picture(256, 256, 8)
    assert Caps(256 * 256, 8).applied(asked) is asked


def test_a_larger_one_keeps_its_aspect_and_everything_else() -> None:
    made = Caps(65536, 8).applied(Picture(1024, 512, 30, "a fox"))
    assert made == Picture(352, 160, 8, "a fox")


@given(SIDES, SIDES, st.integers(64 * 64, 4096 * 4096))
def test_sides_are_multiples_of_32_and_never_grow_beyond_cap_or_floor(width: int, height: int, cap: int) -> None:
    made = Caps(cap, None).applied(Picture(width, height))
    if width * height <= cap:
        assert (made.width, made.height) == (width, height)
        return
    assert made.width % 32 == made.height % 32 == 0
    assert min(made.width, made.height) >= 64
    # Only a side that was lifted to the floor may push the canvas above the cap.
    assert made.width * made.height <= cap or 64 in (made.width, made.height)


@given(st.integers(2, 1000), st.integers(2, 1000))
def test_steps_are_cut_to_the_cap(steps: int, cap: int) -> None:
    assert Caps(None, cap).applied(Picture(64, 64, steps)).steps == min(steps, cap)


@pytest.mark.parametrize("caps", [Caps(4096, 2), Caps(None, 2), Caps(4096, None)])
def test_a_request_without_canvas_or_steps_is_left_alone(caps: Caps) -> None:
    asked = Sound(3.5)
    assert caps.applied(asked) is asked
