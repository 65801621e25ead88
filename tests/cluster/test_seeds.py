from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.seeds import derived
from tasks.fields import MAX_SEED

SEEDS = st.integers(0, MAX_SEED)


@given(SEEDS)
def test_the_first_attempt_has_the_jobs_own_seed(seed: int) -> None:
    assert derived(seed, 0) == seed


@given(SEEDS, st.integers(1, 20))
def test_later_ones_are_other_seeds(seed: int, spoilt: int) -> None:
    assert 0 <= derived(seed, spoilt) <= MAX_SEED
    assert derived(seed, spoilt) != derived(seed, spoilt + 1)


def test_its_value_is_fixed_for_ever() -> None:
    assert [derived(7, spoilt) for spoilt in (0, 1, 2)] == [7, 1470156519, 227451765]
    assert len({derived(seed, 1) for seed in range(1000)}) == 1000
