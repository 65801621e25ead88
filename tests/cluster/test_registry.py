from __future__ import annotations

import inspect

from cluster.chains.registry import CHAINS
from tasks.registry import TASKS


def test_every_task_has_a_chain_and_every_chain_a_task() -> None:
    assert set(CHAINS) == set(TASKS)


def test_a_chain_has_one_coroutine_per_pool_it_passes() -> None:
    for name, segments in CHAINS.items():
        assert segments
        assert all(inspect.iscoroutinefunction(segment) for segment in segments)
        examples = TASKS[name].Input.model_config["json_schema_extra"]
        assert isinstance(examples, dict)
        for example in examples["examples"]:
            effective = TASKS[name].prepare(example).effective_input
            assert len(TASKS[name].pools(effective)) == len(segments)
