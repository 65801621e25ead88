"""Every option that this machine can run changes what it should, and what it cannot run is refused when it loads."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from models import qwen_image
from models.base import Engine, LoadFailed, Stopped
from models.qwen_image import ImageRequest, ImageResult, QwenImage
from models.qwen_options import LONG_STEPS, LORA, STANDARD_STEPS, QwenOptions
from models.qwen_preview import preview
from models.weights import Weights, resolve
from tasks import image_generate
from tests.models.test_qwen_image import ignore, request

DISTILLED = {"lora": {"weights": "tiny:qwen-image-lora", "file": "lora.safetensors"}, "steps": 8}


@pytest.fixture(scope="module")
def with_lora(tiny: Weights, cache: Any) -> Weights:
    return tiny.with_addition(LORA, resolve("tiny:qwen-image-lora", cache, file="lora.safetensors"))


def loaded_with(weights: Weights, **options: Any) -> QwenImage:
    engine = QwenImage(options)
    engine.load(weights, "cpu")
    return engine


def difference(one: ImageResult, two: ImageResult) -> float:
    return float(np.abs(one.pixels.astype(int) - two.pixels.astype(int)).mean())


class TestForm:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"colour": "red"}, "colour"),
            ({"dtype": "float16"}, "dtype"),
            ({"attention": "fast"}, "attention"),
            ({"quantization": "int4"}, "quantization"),
            ({"trueCfgScale": 0.5}, "trueCfgScale"),
            ({"trueCfgScale": "nan"}, "trueCfgScale"),
            ({"distillation": {**DISTILLED, "steps": 1}}, "steps"),
            ({"distillation": {"steps": 8}}, "lora"),
            ({"cache": {"method": "guess"}}, "method"),
            ({"referencePixels": 10}, "referencePixels"),
            ({"cache": {"method": "first-block"}, "distillation": DISTILLED}, "nothing left to skip"),
            ({"cache": {"method": "taylorseer"}, "compile": True}, "choose one"),
        ],
    )
    def test_mistakes_are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            QwenImage(options)

    def test_an_engine_without_options_of_its_own_takes_none(self) -> None:
        with pytest.raises(ValidationError, match="colour"):
            Engine.Options.model_validate({"colour": "red"})

    def test_the_standard_is_the_tasks(self) -> None:
        assert image_generate.STEPS == STANDARD_STEPS

    @pytest.mark.parametrize(("asked", "given"), [(30, 8), (45, 12), (8, 3), (2, 2)])
    def test_distilled_steps_follow_the_detail_asked_for(self, asked: int, given: int) -> None:
        assert QwenOptions.model_validate({"distillation": DISTILLED}).steps_for(asked) == given


class TestDistillation:
    def test_few_steps_without_guidance_and_what_that_leaves_out_is_said(
        self, with_lora: Weights, loaded: QwenImage
    ) -> None:
        engine = loaded_with(with_lora, distillation=DISTILLED)
        made = engine.run(request(steps=30, negative_prompt="text"), ignore)
        assert (made.details["steps"], made.details["guidanceScale"]) == (8, 1.0)
        assert [change["field"] for change in made.details["adjustments"]] == ["negativePrompt"]
        again = engine.run(request(steps=30), ignore)
        assert again.details["adjustments"] == []
        assert again.pixels.tobytes() == made.pixels.tobytes()

    def test_the_lora_counts(self, with_lora: Weights) -> None:
        full, faint = (
            loaded_with(with_lora, distillation={**DISTILLED, "strength": strength}).run(request(steps=30), ignore)
            for strength in (1.0, 0.001)
        )
        assert full.pixels.tobytes() != faint.pixels.tobytes()

    def test_its_digest_counts_too(self, tiny: Weights, with_lora: Weights) -> None:
        assert with_lora.digest != tiny.digest
        assert with_lora.path == tiny.path

    def test_a_file_that_is_no_lora_of_this_model_is_refused(self, tiny: Weights) -> None:
        vae = Weights("dir:v", tiny.path / "vae" / "diffusion_pytorch_model.safetensors", "sha256:0")
        with pytest.raises(LoadFailed):
            loaded_with(tiny.with_addition(LORA, vae), distillation=DISTILLED)


class TestCache:
    @pytest.mark.parametrize(
        "skipping", [{"method": "first-block", "threshold": 0.9}, {"method": "taylorseer", "interval": 4}]
    )
    def test_long_runs_are_close_to_the_full_ones_and_short_runs_the_same(
        self, tiny: Weights, loaded: QwenImage, skipping: dict[str, Any]
    ) -> None:
        engine = loaded_with(tiny, cache=skipping)
        long, short = (request(steps=steps, width=64, height=64) for steps in (LONG_STEPS, 4))
        full, cached = loaded.run(long, ignore), engine.run(long, ignore)
        assert cached.details["cache"] == skipping["method"]
        assert cached.pixels.tobytes() != full.pixels.tobytes()
        assert difference(cached, full) < 30
        assert engine.run(short, ignore).pixels.tobytes() == loaded.run(short, ignore).pixels.tobytes()
        assert engine.run(long, ignore).pixels.tobytes() == cached.pixels.tobytes()

    @pytest.mark.parametrize("method", ["first-block", "taylorseer"])
    def test_a_stopped_run_leaves_nothing_behind(self, tiny: Weights, method: str) -> None:
        engine = loaded_with(tiny, cache={"method": method, "threshold": 0.9})
        long = request(steps=LONG_STEPS, width=64, height=64)
        before = engine.run(long, ignore)

        def stop(step: int, total: int, preview: bytes | None = None, /) -> None:
            if step == 11:
                raise Stopped(step)

        with pytest.raises(Stopped):
            engine.run(request(steps=LONG_STEPS, width=128, height=64), stop)
        assert engine.run(long, ignore).pixels.tobytes() == before.pixels.tobytes()


class TestPlacement:
    def test_a_text_encoder_that_is_streamed_gives_the_same_bytes(self, tiny: Weights, loaded: QwenImage) -> None:
        made = loaded_with(tiny, textEncoder="offload").run(request(), ignore)
        assert made.pixels.tobytes() == loaded.run(request(), ignore).pixels.tobytes()

    def test_bfloat16_is_near_float32(self, tiny: Weights, loaded: QwenImage) -> None:
        made = loaded_with(tiny, dtype="bfloat16").run(request(), ignore)
        assert 0 < difference(made, loaded.run(request(), ignore)) < 20

    @pytest.mark.parametrize("options", [{"compile": True}, {"quantization": "int8-weight-only"}])
    def test_a_changed_model_draws_nearly_the_same_pictures(self, tiny: Weights, options: dict[str, Any]) -> None:
        # Both libraries warn of what they cannot do on the CPU, so each gets a process of its own.
        if "quantization" in options and importlib.util.find_spec("torchao") is None:
            pytest.skip("torchao is in the extra gpu only: beside a CPU torch its import complains in every process")
        program = f"""
from pathlib import Path
from models.qwen_image import ImageRequest, QwenImage
from models.weights import Weights
weights, made = Weights("dir:w", Path({str(tiny.path)!r}), ""), []
for options in ({{}}, {options!r}):
    engine = QwenImage(options)
    engine.load(weights, "cpu")
    for width, steps, prompt in ((64, 3, "a fox"), (128, 2, "a much longer prompt than the one before it")):
        request = ImageRequest(prompt=prompt, width=width, height=96, steps=steps, seed=7)
        made.append(engine.run(request, lambda *_: None).pixels.astype(int))
print(max(abs(made[0] - made[2]).mean(), abs(made[1] - made[3]).mean()))
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout.splitlines()[-1]) < 5

    def test_a_compiled_step_may_take_longer(self, tiny: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("diffusers.QwenImageTransformer2DModel.compile_repeated_blocks", lambda *_, **__: None)
        assert loaded_with(tiny, compile=True).step_limit_s > QwenImage.step_limit_s


class TestWhatCannotBeHadHere:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"quantization": "fp8"}, "needs a GPU"),
            ({"quantization": "fp8-weight-only"}, "needs a GPU"),
            ({"attention": "flash3"}, "needs a Hopper GPU"),
            ({"attention": "flash3-hub"}, "needs a Hopper GPU"),
        ],
    )
    def test_is_refused_at_load(self, tiny: Weights, options: dict[str, Any], message: str) -> None:
        with pytest.raises(LoadFailed, match=message):
            loaded_with(tiny, **options)

    @pytest.mark.parametrize(
        ("options", "package"),
        [({"quantization": "int8-weight-only"}, "torchao"), ({"distillation": DISTILLED}, "peft")],
    )
    def test_a_missing_package_is_named(
        self, with_lora: Weights, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], package: str
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(LoadFailed, match=f"{package}; install"):
            loaded_with(with_lora, **options)

    def test_what_loads_and_cannot_run_is_found_before_a_paid_job_finds_it(
        self, tiny: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no kernel image is available for execution on the device")

        monkeypatch.setattr("diffusers.QwenImagePipeline.__call__", broken)
        with pytest.raises(LoadFailed, match="cannot make a picture with these options: no kernel image"):
            loaded_with(tiny, textEncoder="offload")


class TestPreviews:
    def test_they_come_now_and_then_small_and_never_at_the_end(
        self, tiny: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(qwen_image, "PREVIEW_SECONDS", 0.0)
        seen: list[bytes | None] = []
        engine = loaded_with(tiny)
        wide = request(width=1024, height=64, steps=6)
        engine.run(wide, lambda step, total, preview=None, /: seen.append(preview))
        shown = [each for each in seen if each is not None]
        assert seen[0] is not None
        assert seen[-1] is None
        assert len(shown) < len(seen) == 6
        for each in shown:
            with Image.open(io.BytesIO(each)) as image:
                assert (image.format, image.size) == ("WEBP", (128, 8))
        seen.clear()
        loaded_with(tiny, previews=False).run(wide, lambda step, total, preview=None, /: seen.append(preview))
        assert seen == [None] * 6

    def test_a_latent_lands_where_its_pixel_is(self) -> None:
        channels, rows, columns = 16, 8, 12
        latents = torch.zeros(1, channels, rows, columns)
        latents[:, 10, 5:7, 2:5] = 2.0
        packed = latents.view(1, channels, rows // 2, 2, columns // 2, 2).permute(0, 2, 4, 1, 3, 5)
        packed = packed.reshape(1, rows * columns // 4, channels * 4)
        with Image.open(io.BytesIO(preview(packed, columns * 8, rows * 8))) as image:
            light = np.asarray(image.convert("L")).astype(int)
        assert light[5:7, 2:5].min() > np.delete(light, slice(4, 8), axis=0).max()
        assert light[5:7, 2:5].min() > np.delete(light, slice(1, 6), axis=1).max()


def test_the_noise_of_a_seed_is_drawn_on_the_cpu(loaded: QwenImage, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []
    real = torch.Generator

    def generator(device: str = "cpu") -> torch.Generator:
        devices.append(device)
        return real(device)

    monkeypatch.setattr(torch, "Generator", generator)
    loaded.run(ImageRequest(prompt="x", width=64, height=64, steps=2, seed=1), ignore)
    assert devices == ["cpu"]
