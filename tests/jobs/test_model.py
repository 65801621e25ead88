"""The jobs of a real PostgreSQL against a model of a few dictionaries, after any line of operations."""

from __future__ import annotations

from killatamata.embedded_postgres import EmbeddedPostgres
from tests.jobs.machine import EXAMPLES, explore
from tests.jobs.scene import Bench


def test_the_database_does_what_the_model_says(postgres: EmbeddedPostgres, template: str) -> None:
    lines = EXAMPLES or 60
    with Bench(postgres, template, "model").opened() as bench:
        explore(bench, lines, chosen=not EXAMPLES)
        assert bench.tried >= lines, "each line is compared with the model after every operation; fewer were tried"
