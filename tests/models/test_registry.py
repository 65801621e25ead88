from __future__ import annotations

import subprocess
import sys

import pytest

from models.base import Engine, EngineFault, Stopped
from models.registry import ENGINES, TINY, UnknownEngine, engine, load_object


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_declares_what_the_replica_needs(name: str) -> None:
    made = engine(name)
    assert isinstance(made, Engine)
    assert made.name == name
    assert made.cancel in {"step", "stage", "kill"}
    assert 0 < made.step_limit_s < 600
    assert 0 < made.peak_ram_bytes < 4 * 2**30


@pytest.mark.parametrize("target", TINY.values())
def test_every_tiny_builder_exists(target: str) -> None:
    assert callable(load_object(target))


def test_each_call_gives_an_engine_of_its_own() -> None:
    assert engine("qwen-image") is not engine("qwen-image")


@pytest.mark.parametrize("name", ["", "qwen", "QWEN-IMAGE", "models.qwen_image:QwenImage", "../qwen-image"])
def test_an_unknown_name_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownEngine, match="qwen-image"):
        engine(name)


def test_asking_for_an_engine_imports_no_model_library() -> None:
    program = (
        "import sys, models.weights, models.registry as r; [r.engine(name) for name in r.ENGINES]\n"
        "print([n for n in ('torch', 'diffusers', 'transformers', 'numpy', 'huggingface_hub') if n in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"


def test_faults_and_stops_survive_pickling_and_say_what_they_are() -> None:
    import pickle

    stopped = pickle.loads(pickle.dumps(Stopped(3)))
    assert stopped.step == 3
    assert "3" in str(stopped)
    for fault in EngineFault.__subclasses__():
        copy = pickle.loads(pickle.dumps(fault("why")))
        assert (str(copy), copy.code, copy.recycle) == ("why", fault.code, fault.recycle)


def test_each_fault_has_a_code_of_its_own() -> None:
    codes = [fault.code for fault in EngineFault.__subclasses__()]
    assert len(codes) == len(set(codes)) >= 6
    assert all(code == code.lower() and code.isidentifier() for code in codes)
