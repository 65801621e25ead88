"""Operations of two connections at once, held up at the rows that they lock."""

from __future__ import annotations

from killatamata.embedded_postgres import EmbeddedPostgres
from tests.jobs.machine import EXAMPLES
from tests.jobs.pairs import OPERATIONS, interleave
from tests.jobs.scene import Bench


def test_whatever_two_do_at_once_is_what_one_after_the_other_would_do(
    postgres: EmbeddedPostgres, template: str
) -> None:
    with Bench(postgres, template, "pairs").opened() as bench:
        interleave(bench, every=bool(EXAMPLES))
        assert bench.tried >= len(OPERATIONS) * (len(OPERATIONS) + 1) // 2
