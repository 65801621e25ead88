"""Every option that this machine can run changes what it should, and what it cannot run is refused when it loads."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydantic import ValidationError

from models import ltx_video
from models.base import LoadFailed, Stopped
from models.ltx_options import LORA, UPSAMPLER, LtxOptions
from models.ltx_video import LtxVideo
from models.weights import Weights, resolve
from tests.models.ltx_clips import frames, ignore, latents, passes, picture, request, run, tone

REFINER = {"weights": "tiny:ltx-video-lora", "file": "lora.safetensors"}


@pytest.fixture(scope="module")
def with_lora(tiny_ltx: Weights, cache: Path) -> Weights:
    return tiny_ltx.with_addition(LORA, resolve("tiny:ltx-video-lora", cache, file="lora.safetensors"))


@pytest.fixture(scope="module")
def full(tiny_ltx: Weights) -> LtxVideo:
    return loaded_with(tiny_ltx, schedule="full")


def loaded_with(weights: Weights, **options: Any) -> LtxVideo:
    engine = LtxVideo(options)
    engine.load(weights, "cpu")
    return engine


def difference(one: npt.NDArray[np.uint8], two: npt.NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(int) - two.astype(int)).mean())


class TestForm:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"colour": "red"}, "colour"),
            ({"dtype": "float16"}, "dtype"),
            ({"attention": "fast"}, "attention"),
            ({"schedule": "long"}, "schedule"),
            ({"decodeLatents": 3}, "decodeLatents"),
            ({"decodeLatents": 0}, "decodeLatents"),
            ({"refiner": REFINER}, "distilled model refines by itself"),
            ({"refiner": {"weights": "tiny:x"}, "schedule": "full"}, "under `file`"),
            ({"refiner": REFINER, "schedule": "full", "compile": True}, "not beside compile"),
            ({"refiner": REFINER, "schedule": "full", "quantization": "fp8"}, "not beside compile or quantization"),
        ],
    )
    def test_mistakes_are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            LtxVideo(options)

    def test_additions_are_what_is_named(self) -> None:
        named = LtxOptions.model_validate(
            {"schedule": "full", "refiner": REFINER, "upsampler": {"weights": "tiny:ltx-video"}}
        )
        assert set(named.additions()) == {UPSAMPLER, LORA}
        assert LtxOptions().additions() == {}


class TestSchedule:
    def test_the_full_one_takes_the_steps_asked_for_with_all_its_guidance(self, full: LtxVideo) -> None:
        with passes(full) as seen:
            clip = full.run(request(steps=3), ignore)
        assert len(seen) == 3 * 3
        assert [given["hidden_states"].shape[0] for given in seen] == [2, 1, 1] * 3
        assert [given["isolate_modalities"] for given in seen] == [False, False, True] * 3
        assert [given["spatio_temporal_guidance_blocks"] for given in seen] == [None, [1], None] * 3
        assert (clip.details["steps"], clip.details["guidanceScale"]) == (3, 3.0)
        assert clip.details["adjustments"] == []
        assert frames(clip).std() > 5

    def test_its_steps_are_shifted_and_end_where_the_scheduler_says(self, full: LtxVideo) -> None:
        with passes(full) as seen:
            latents(full, steps=4)
        sigmas = [float(given["sigma"][0]) / 1000 for given in seen[::3]]
        assert sigmas[0] == pytest.approx(1.0)
        assert sigmas[-1] == pytest.approx(0.1, abs=1e-3)

    def test_a_negative_prompt_counts(self, full: LtxVideo) -> None:
        one, two = (run(full, steps=2, negative_prompt=text) for text in ("", "text, watermark"))
        assert one.tobytes() != two.tobytes()

    def test_conditions_hold_there_too(self, full: LtxVideo) -> None:
        one, two = (latents(full, steps=2, start=picture(5), sound=tone(), seed=seed) for seed in (1, 2))
        assert float((one - two)[:, :, 0].abs().max()) == 0.0

    def test_a_step_may_take_longer(self, full: LtxVideo) -> None:
        assert full.step_limit_s > LtxVideo.step_limit_s


class TestRefiner:
    def test_is_on_in_the_second_stage_alone_which_needs_no_guidance_then(
        self, with_lora: Weights, full: LtxVideo
    ) -> None:
        engine = loaded_with(with_lora, schedule="full", refiner=REFINER)
        with passes(engine) as seen:
            refined = run(engine, steps=2, extreme_quality=True)
        assert len(seen) == 2 * 3 + 3
        assert run(engine, steps=2).tobytes() == run(full, steps=2).tobytes()
        with passes(full) as seen:
            assert run(full, steps=2, extreme_quality=True).tobytes() != refined.tobytes()
        assert len(seen) == (2 + 3) * 3

        def stop(step: int, total: int, preview: bytes | None = None, /) -> None:
            if step == 4:
                raise Stopped(step)

        with pytest.raises(Stopped):
            engine.run(request(steps=2, extreme_quality=True), stop)
        assert run(engine, steps=2).tobytes() == run(full, steps=2).tobytes()

    def test_a_file_that_is_no_lora_of_this_model_is_refused(self, tiny_ltx: Weights) -> None:
        vae = Weights("dir:v", tiny_ltx.path / "vae" / "diffusion_pytorch_model.safetensors", "sha256:0")
        with pytest.raises(LoadFailed):
            loaded_with(tiny_ltx.with_addition(LORA, vae), schedule="full", refiner=REFINER)


class TestPlacement:
    def test_a_text_encoder_that_is_streamed_gives_the_same_bytes(self, tiny_ltx: Weights, ltx: LtxVideo) -> None:
        assert run(loaded_with(tiny_ltx, textEncoder="offload")).tobytes() == run(ltx).tobytes()

    def test_bfloat16_is_near_float32(self, tiny_ltx: Weights, ltx: LtxVideo) -> None:
        assert 0 < difference(run(loaded_with(tiny_ltx, dtype="bfloat16")), run(ltx)) < 20

    def test_smaller_chunks_give_the_same_frames(self, tiny_ltx: Weights, ltx: LtxVideo) -> None:
        made = run(loaded_with(tiny_ltx, decodeLatents=1), frames=33).astype(int)
        assert np.abs(made - run(ltx, frames=33)).max() <= 1

    def test_an_upsampler_of_its_own_is_read_from_there(self, tiny_ltx: Weights, tmp_path: Path) -> None:
        elsewhere = tiny_ltx.with_addition(UPSAMPLER, Weights("dir:u", tmp_path, "sha256:0"))
        with pytest.raises(LoadFailed, match=r"name weights that have one under options.upsampler"):
            loaded_with(elsewhere, upsampler={"weights": "dir:u"})
        (tmp_path / "latent_upsampler").symlink_to(tiny_ltx.path / "latent_upsampler")
        loaded_with(elsewhere, upsampler={"weights": "dir:u"}).health()


class TestWhatCannotBeHadHere:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"quantization": "fp8"}, "needs a GPU"),
            ({"attention": "flash3"}, "needs a Hopper GPU"),
            ({"attention": "flash3-hub"}, "needs a Hopper GPU"),
        ],
    )
    def test_is_refused_at_load(self, tiny_ltx: Weights, options: dict[str, Any], message: str) -> None:
        with pytest.raises(LoadFailed, match=message):
            loaded_with(tiny_ltx, **options)

    @pytest.mark.parametrize(
        ("options", "package"),
        [({"quantization": "int8-weight-only"}, "torchao"), ({"schedule": "full", "refiner": REFINER}, "peft")],
    )
    def test_a_missing_package_is_named(
        self, with_lora: Weights, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], package: str
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(LoadFailed, match=f"{package}; install"):
            loaded_with(with_lora, **options)

    def test_what_loads_and_cannot_run_is_found_before_a_paid_job_finds_it(
        self, tiny_ltx: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no kernel image is available for execution on the device")

        monkeypatch.setattr("models.ltx_run.decoded", broken)
        with pytest.raises(LoadFailed, match="cannot make a clip with these options: no kernel image"):
            loaded_with(tiny_ltx, textEncoder="offload")


class TestPreviews:
    @pytest.mark.parametrize(("extreme", "sizes"), [(False, {(96, 64)}), (True, {(48, 32), (96, 64)})])
    def test_they_come_now_and_then_of_the_promised_canvas(
        self, ltx: LtxVideo, monkeypatch: pytest.MonkeyPatch, extreme: bool, sizes: set[tuple[int, int]]
    ) -> None:
        monkeypatch.setattr("models.ltx_run.Schedule.due", lambda *_: True)
        seen: list[bytes | None] = []
        clip = ltx.run(
            request(width=96, extreme_quality=extreme), lambda step, total, preview=None, /: seen.append(preview)
        )
        assert None not in seen
        found = set()
        for each in seen:
            assert each is not None
            with Image.open(io.BytesIO(each)) as image:
                assert image.format == "WEBP"
                found.add(image.size)
        assert found == sizes
        assert frames(clip).tobytes() == run(ltx, width=96, extreme_quality=extreme).tobytes()

    def test_they_get_rarer_and_can_be_left_out(self, tiny_ltx: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ltx_video, "PREVIEW_SECONDS", 0.0)
        seen: list[bytes | None] = []
        loaded_with(tiny_ltx).run(request(), lambda step, total, preview=None, /: seen.append(preview))
        shown = [each for each in seen if each is not None]
        assert 1 <= len(shown) < len(seen) == 8
        seen.clear()
        loaded_with(tiny_ltx, previews=False).run(request(), lambda step, total, preview=None, /: seen.append(preview))
        assert seen == [None] * 8
