from __future__ import annotations

import inspect

from cluster import fleet
from cluster.chains.registry import CHAINS
from tasks.registry import TASKS


def test_every_chain_is_of_a_task_and_every_task_that_the_embedded_fleet_offers_has_one() -> None:
    assert set(CHAINS) <= set(TASKS)
    pools = fleet.load("embedded").pools
    for name, task in TASKS.items():
        examples = task.Input.model_config["json_schema_extra"]
        assert isinstance(examples, dict)
        if all(set(task.pools(task.prepare(each).effective_input)) <= pools for each in examples["examples"]):
            assert name in CHAINS


def test_a_chain_has_one_coroutine_per_pool_it_passes() -> None:
    for name, segments in CHAINS.items():
        assert segments
        assert all(inspect.iscoroutinefunction(segment) for segment in segments)
        examples = TASKS[name].Input.model_config["json_schema_extra"]
        assert isinstance(examples, dict)
        for example in examples["examples"]:
            effective = TASKS[name].prepare(example).effective_input
            assert len(TASKS[name].pools(effective)) == len(segments)
