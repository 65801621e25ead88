from __future__ import annotations

import subprocess
import sys

import pytest

from core.errors import InvalidInput
from tasks.registry import TASKS, task


def test_every_task_stands_under_its_own_name() -> None:
    assert "image.generate" in TASKS
    for name, each in TASKS.items():
        assert each.name == name
        assert task(name) is each
        assert each.title
        assert each.model
        assert each.Input.model_json_schema()["examples"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("image.genrate", "image.generate"),
        ("IMAGE.GENERATE", "image.generate"),
        ("", None),
        ("x" * 1_000_000, None),
        ("\ud800", None),
        (None, None),
        (5, None),
        (["image.generate"], None),
        ({"image.generate": 1}, None),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_unknown_tasks(name: object, nearest: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        task(name)
    (problem,) = caught.value.fields
    assert problem.path == "task"
    assert problem.nearest == nearest
    assert problem.allowed == list(TASKS)
    assert len(caught.value.message) < 120
    caught.value.message.encode()


def test_the_registry_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TASKS["x"] = TASKS["image.generate"]  # type: ignore[index]


def test_importing_tasks_and_pricing_stays_light() -> None:
    code = (
        "import sys, tasks.registry, pricing.registry, pricing.tokens\n"
        "heavy = {'torch', 'ray', 'numpy', 'starlette', 'asyncpg', 'PIL', 'httpx'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
