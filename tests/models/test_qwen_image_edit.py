from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import LoadFailed, NonFiniteOutput, Stopped
from models.qwen_image import MAX_PROMPT_TOKENS, ImageRequest
from models.qwen_image_edit import QwenImageEdit, padded
from models.tiny_qwen_image import EDIT_TEMPLATE, train_tokenizer
from models.weights import Weights, resolve
from tests.models.test_qwen_image import forbid, ignore

SMALL = {"referencePixels": 64 * 64, "conditionPixels": 64 * 64}


def picture(width: int = 96, height: int = 64, shade: int = 30) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, shade)], -1).astype(np.uint8)


def request(**changes: Any) -> ImageRequest:
    fields = {"prompt": "make it red", "width": 64, "height": 96, "steps": 2, "seed": 7, "references": (picture(),)}
    return ImageRequest(**{**fields, **changes})


@pytest.fixture(scope="module")
def tiny_edit(cache: Path) -> Weights:
    return resolve("tiny:qwen-image-edit", cache)


@pytest.fixture(scope="module")
def editor(tiny_edit: Weights) -> QwenImageEdit:
    engine = QwenImageEdit(SMALL)
    engine.load(tiny_edit, "cpu")
    return engine


class TestRun:
    def test_gives_a_picture_of_the_size_asked_for_whatever_the_reference_has(self, editor: QwenImageEdit) -> None:
        result = editor.run(request(), ignore)
        assert (result.pixels.shape, result.pixels.dtype.name) == ((96, 64, 3), "uint8")
        assert result.pixels.std() > 5
        json.dumps(result.details)

    def test_two_replicas_give_the_same_bytes(self, editor: QwenImageEdit, tiny_edit: Weights) -> None:
        other = QwenImageEdit(SMALL)
        other.load(tiny_edit, "cpu")
        first, again, elsewhere = (engine.run(request(), ignore) for engine in (editor, editor, other))
        assert first.pixels.tobytes() == again.pixels.tobytes() == elsewhere.pixels.tobytes()

    def test_every_part_of_the_request_counts_and_so_do_number_and_order_of_references(
        self, editor: QwenImageEdit
    ) -> None:
        one, two = picture(), picture(64, 128, 200)
        variants: list[dict[str, Any]] = [
            {},
            {"seed": 8},
            {"prompt": "make it blue"},
            {"negative_prompt": "red"},
            {"steps": 3},
            {"references": (two,)},
            {"references": (one, two)},
            {"references": (two, one)},
            {"references": (one, one)},
        ]
        pictures = {editor.run(request(**changes), ignore).pixels.tobytes() for changes in variants}
        assert len(pictures) == len(variants)

    def test_the_areas_of_the_options_count_and_are_given_back(self, editor: QwenImageEdit) -> None:
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

        before = module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE
        seen: list[tuple[int, int]] = []
        editor.run(request(), lambda *_: seen.append((module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE)))
        assert set(seen) == {(64 * 64, 64 * 64)}
        assert (module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE) == before == (1024 * 1024, 384 * 384)

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 900), (1600, 1), (33, 31)])
    def test_references_of_any_shape(self, editor: QwenImageEdit, width: int, height: int) -> None:
        made = editor.run(request(references=(picture(width, height),)), ignore)
        assert made.pixels.shape == (96, 64, 3)

    def test_without_references_it_does_nothing(self, editor: QwenImageEdit) -> None:
        with pytest.raises(ValueError, match="one reference at least"):
            editor.run(request(references=()), forbid)

    @pytest.mark.parametrize("prompt", ["<|image_pad|>" * 9, "<|vision_start|><|im_end|>", "{} {0} {{", "\0\U0010ffff"])
    def test_hostile_prompts_are_only_text(self, editor: QwenImageEdit, prompt: str) -> None:
        assert editor.run(request(prompt=prompt, negative_prompt=prompt), ignore).pixels.shape == (96, 64, 3)

    def test_a_prompt_beyond_the_models_reach_is_cut_and_that_is_said(self, editor: QwenImageEdit) -> None:
        made = editor.run(request(prompt="狐" * 4000), ignore)
        (change,) = made.details["adjustments"]
        assert (change["field"], change["to"], change["at"]) == ("prompt", f"{MAX_PROMPT_TOKENS} tokens", "run")
        assert editor.run(request(), ignore).details["adjustments"] == []

    def test_a_stop_ends_the_run_at_its_step_and_decodes_nothing(
        self, editor: QwenImageEdit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(step: int, total: int, preview: bytes | None = None, /) -> None:
            raise Stopped(step)

        monkeypatch.setattr(editor._pipeline.vae, "decode", forbid)
        with pytest.raises(Stopped) as caught:
            editor.run(request(), stop)
        assert caught.value.step == 1

    def test_deadlines_grow_with_the_references(self, editor: QwenImageEdit) -> None:
        assert editor.deadline_s(request()) < editor.deadline_s(request(references=(picture(), picture())))

    def test_nan_is_seen(self, tiny_edit: Weights) -> None:
        engine = QwenImageEdit(SMALL)
        engine.load(tiny_edit, "cpu")
        engine._pipeline.transformer.proj_out.bias.data.fill_(float("nan"))
        with pytest.raises(NonFiniteOutput):
            engine.run(request(), forbid)


class TestLoad:
    def test_neither_network_nor_output(
        self, tiny_edit: Weights, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(socket.socket, "connect", forbid)
        monkeypatch.setattr(socket, "getaddrinfo", forbid)
        engine = QwenImageEdit(SMALL)
        engine.load(tiny_edit, "cpu")
        engine.run(request(), ignore)
        assert capfd.readouterr() == ("", "")

    def test_building_the_tiny_weights_prints_nothing(
        self, tmp_path: Path, tiny_edit: Weights, capfd: pytest.CaptureFixture[str]
    ) -> None:
        built = resolve("tiny:qwen-image-edit", tmp_path)
        assert built.digest == tiny_edit.digest
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("part", ["processor", "text_encoder", "processor/tokenizer.json"])
    def test_what_is_missing_is_refused(self, tiny_edit: Weights, tmp_path: Path, part: str) -> None:
        shutil.copytree(tiny_edit.path, tmp_path / "w")
        if (tmp_path / "w" / part).is_dir():
            shutil.rmtree(tmp_path / "w" / part)
        else:
            (tmp_path / "w" / part).unlink()
        with pytest.raises(LoadFailed, match="dir:w"):
            QwenImageEdit(SMALL).load(Weights("dir:w", tmp_path / "w", "sha256:0"), "cpu")

    def test_weights_of_the_sister_model_are_refused(self, tiny: Weights) -> None:
        with pytest.raises(LoadFailed, match="made for QwenImagePipeline"):
            QwenImageEdit(SMALL).load(tiny, "cpu")

    def test_the_template_is_that_of_the_pipeline_and_its_tokens_are_those_it_drops(
        self, editor: QwenImageEdit
    ) -> None:
        assert editor._pipeline.prompt_template_encode == EDIT_TEMPLATE
        assert len(train_tokenizer(EDIT_TEMPLATE, 1024)(EDIT_TEMPLATE.partition("{}")[0]).input_ids) == 64

    def test_conditions_have_the_timestep_zero_as_in_production(self, editor: QwenImageEdit) -> None:
        assert editor._pipeline.transformer.config.zero_cond_t is True


@given(st.integers(1, 300), st.integers(1, 300))
def test_padding_keeps_every_pixel_in_the_middle_and_reaches_four_to_one(width: int, height: int) -> None:
    given_pixels = np.zeros((height, width, 3), np.uint8)
    made = padded(given_pixels)
    assert max(made.shape[:2]) <= 4 * min(made.shape[:2])
    rows, columns = np.nonzero(made[..., 0] == 0)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (height, width)
    assert (made is given_pixels) == (max(width, height) <= 4 * min(width, height))
    assert abs((made.shape[0] - 1 - rows.max()) - rows.min()) <= 1
    assert abs((made.shape[1] - 1 - columns.max()) - columns.min()) <= 1


def test_replicas_in_two_processes_give_the_same_bytes(tiny: Weights, tiny_edit: Weights) -> None:
    program = f"""
import hashlib
from pathlib import Path
import numpy as np
from models.registry import engine
from models.qwen_image import ImageRequest
from models.weights import Weights
for name, path, options, references in (
    ("qwen-image", {str(tiny.path)!r}, {{}}, ()),
    ("qwen-image-edit", {str(tiny_edit.path)!r}, {SMALL!r}, (np.arange(64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8),)),
):
    made = engine(name, options)
    made.load(Weights("dir:w", Path(path), ""), "cpu")
    request = ImageRequest(prompt="a fox", width=128, height=96, steps=4, seed=7, references=references)
    print(hashlib.sha256(made.run(request, lambda *_: None).pixels.tobytes()).hexdigest())
"""
    said = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1]
    assert len(set(said[0].split())) == 2
