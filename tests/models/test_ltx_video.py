from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from media.clip import sound_samples
from models.base import DeviceLost, FrozenOutput, LoadFailed, NonFiniteOutput, NotReady, OutOfMemory, Stopped
from models.ltx_video import LtxVideo
from models.tiny_ltx_video import train_tokenizer
from models.weights import Weights
from tests.models.ltx_clips import forbid, frames, ignore, picture, request, run, tone

DENOISING = 8


class TestRequest:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"width": 100}, "multiples of 32"),
            ({"height": 32}, "64 at least"),
            ({"width": 0}, "multiples of 32"),
            ({"height": -64}, "multiples of 32"),
            ({"width": 2048, "height": 2080}, "pixels at most"),
            ({"frames": 10}, "8n \\+ 1"),
            ({"frames": 1}, "from 9 to 601"),
            ({"frames": 609}, "from 9 to 601"),
            ({"fps": 0}, "frames a second"),
            ({"fps": 61}, "frames a second"),
            ({"steps": 1}, "at least 2"),
            ({"seed": -1}, "seed"),
            ({"seed": 2**63}, "seed"),
            ({"overlap": (picture(0),) * 17}, "fewer than the clip's 17"),
        ],
    )
    def test_bounds(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            request(**changes)

    def test_the_largest(self) -> None:
        assert request(width=2048, height=2048, frames=601).frames == 601

    def test_wrong_types_are_refused(self) -> None:
        with pytest.raises(TypeError):
            request(width="128")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"start": np.zeros((64, 64), np.uint8)}, "start"),
            ({"final": np.zeros((64, 64, 4), np.uint8)}, "final"),
            ({"final": np.zeros((0, 64, 3), np.uint8)}, "final"),
            ({"overlap": (picture(0), picture(0).astype(np.float32))}, "overlap\\[1\\]"),
            ({"sound": tone(25)}, "sound"),
            ({"sound": tone().astype(np.float64)}, "sound"),
            ({"sound": tone()[:1]}, "sound"),
            ({"sound": np.full_like(tone(), np.nan)}, "sound"),
        ],
    )
    def test_what_is_in_references_is_looked_at_before_any_work(
        self, ltx: LtxVideo, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            ltx.run(request(**changes), forbid)


class TestRun:
    def test_gives_the_clip_asked_for(self, ltx: LtxVideo) -> None:
        clip = ltx.run(request(width=96, frames=33, fps=30), ignore)
        assert (clip.width, clip.height, clip.fps, clip.frames) == (96, 64, Fraction(30), 33)
        assert clip.sound is not None
        assert clip.sound.shape == (2, sound_samples(33, Fraction(30)))
        assert clip.sound.dtype == np.float32
        assert 0.01 < np.abs(clip.sound).max() <= 1
        chunks = list(clip.chunks)
        assert [chunk.shape for chunk in chunks] == [(16, 96, 96), (16, 96, 96), (1, 96, 96)]
        assert all(chunk.dtype == np.uint8 for chunk in chunks)
        assert np.concatenate(chunks).std() > 5
        details = clip.details
        assert (details["seed"], details["steps"], details["stages"], details["guidanceScale"]) == (7, 8, 1, 1.0)
        assert details["scheduler"] == "FlowMatchEulerDiscreteScheduler"
        assert details["timings"]["totalSeconds"] >= details["timings"]["decodeSeconds"] > 0
        json.dumps(details)

    def test_the_same_request_gives_the_same_bytes(self, ltx: LtxVideo, tiny_ltx: Weights) -> None:
        other = LtxVideo()
        other.load(tiny_ltx, "cpu")
        one, again, elsewhere = (engine.run(request(), ignore) for engine in (ltx, ltx, other))
        assert one.sound is not None
        assert again.sound is not None
        assert elsewhere.sound is not None
        assert one.sound.tobytes() == again.sound.tobytes() == elsewhere.sound.tobytes()
        assert frames(one).tobytes() == frames(again).tobytes() == frames(elsewhere).tobytes()

    def test_the_result_does_not_hang_on_the_global_generator(self, ltx: LtxVideo) -> None:
        torch.manual_seed(1)
        first = run(ltx)
        torch.manual_seed(2)
        assert first.tobytes() == run(ltx).tobytes()

    def test_two_clips_drawn_in_turn_are_those_drawn_one_after_the_other(self, ltx: LtxVideo) -> None:
        one, two = ltx.run(request(frames=33), ignore), ltx.run(request(frames=33, seed=8), ignore)
        turns = [chunk for pair in zip(one.chunks, two.chunks, strict=True) for chunk in pair]
        assert np.concatenate(turns[::2]).tobytes() == run(ltx, frames=33).tobytes()
        assert np.concatenate(turns[1::2]).tobytes() == run(ltx, frames=33, seed=8).tobytes()

    def test_every_part_of_the_request_counts(self, ltx: LtxVideo) -> None:
        variants: list[dict[str, Any]] = [
            *({}, {"seed": 8}, {"seed": 2**63 - 1}, {"prompt": "a blue robot"}, {"fps": 30}),
            *({"extreme_quality": True}, {"start": picture(9)}, {"final": picture(9)}, {"sound": tone()}),
        ]
        assert len({run(ltx, **changes).tobytes() for changes in variants}) == len(variants)

    def test_the_end_of_a_long_prompt_counts_and_what_is_beyond_it_is_said(self, ltx: LtxVideo) -> None:
        long = "snow " * 300
        one, two = (run(ltx, prompt=long + end) for end in ("a", "b"))
        assert one.tobytes() != two.tobytes()
        clip = ltx.run(request(prompt="狐" * 4000), ignore)
        assert [change["field"] for change in clip.details["adjustments"]] == ["prompt"]

    def test_a_distilled_model_takes_no_negative_prompt_and_that_is_said(self, ltx: LtxVideo) -> None:
        clip = ltx.run(request(negative_prompt="text"), ignore)
        assert [change["field"] for change in clip.details["adjustments"]] == ["negativePrompt"]
        assert frames(clip).tobytes() == run(ltx).tobytes()

    @pytest.mark.parametrize(
        "prompt",
        ["", "x" * 20_000, "{} {0} {{", "\0\U0010ffff e\u0301 \u200f", "<image_soft_token><bos><end_of_turn><pad>"],
    )
    def test_hostile_prompts_are_only_text(self, ltx: LtxVideo, prompt: str) -> None:
        ids: list[torch.Tensor] = []
        encoder = ltx._pipeline.text_encoder
        handle = encoder.register_forward_pre_hook(
            lambda _, __, given: ids.append(given["input_ids"]), with_kwargs=True
        )
        try:
            assert run(ltx, prompt=prompt, frames=9).shape == (9, 96, 64)
        finally:
            handle.remove()
        image = ltx._pipeline.tokenizer.convert_tokens_to_ids("<image_soft_token>")
        assert not bool((ids[0] == image).any())

    def test_progress_comes_in_order_for_every_step_and_every_chunk(self, ltx: LtxVideo) -> None:
        seen: list[tuple[int, int]] = []
        clip = ltx.run(request(frames=33), lambda step, total, preview=None, /: seen.append((step, total)))
        assert seen == [(step, 11) for step in range(1, 9)]
        for count, _ in enumerate(clip.chunks, 9):
            assert seen[-1] == (count, 11)
        assert len(seen) == 11

    @pytest.mark.parametrize("at", range(1, 12))
    def test_a_stop_ends_the_run_at_its_step(self, ltx: LtxVideo, at: int) -> None:
        seen: list[int] = []

        def stop(step: int, total: int, preview: bytes | None = None, /) -> None:
            seen.append(step)
            if step == at:
                raise Stopped(step)

        with pytest.raises(Stopped) as caught:
            frames(ltx.run(request(frames=33), stop))
        assert caught.value.step == at
        assert seen == list(range(1, at + 1))

    @pytest.mark.parametrize("at", [4, 9, 12])
    def test_a_stopped_run_leaves_nothing_behind(self, ltx: LtxVideo, at: int) -> None:
        conditions: dict[str, Any] = {"extreme_quality": True, "sound": tone(), "start": picture(3)}
        before, plain = run(ltx, **conditions), run(ltx)

        def stop(step: int, total: int, preview: bytes | None = None, /) -> None:
            if step == at:
                raise Stopped(step)

        with pytest.raises(Stopped):
            frames(ltx.run(request(**conditions), stop))
        assert run(ltx).tobytes() == plain.tobytes()
        assert run(ltx, **conditions).tobytes() == before.tobytes()

    def test_nothing_is_decoded_before_it_is_drawn(self, ltx: LtxVideo, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ltx._pipeline.vae.decoder.conv_in, "forward", forbid)
        monkeypatch.setattr(ltx._pipeline.vae.decoder.conv_in.conv, "forward", forbid)
        clip = ltx.run(request(), ignore)
        with pytest.raises(AssertionError):
            next(clip.chunks)

    def test_the_network_is_never_used_and_nothing_is_printed(
        self, tiny_ltx: Weights, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(socket.socket, "connect", forbid)
        monkeypatch.setattr(socket, "getaddrinfo", forbid)
        engine = LtxVideo()
        engine.load(tiny_ltx, "cpu")
        run(engine, extreme_quality=True, frames=9)
        assert capfd.readouterr() == ("", "")


class TestTwoStages:
    @pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 160), (128, 64)])
    def test_the_canvas_is_the_one_promised(self, ltx: LtxVideo, width: int, height: int) -> None:
        clip = ltx.run(request(width=width, height=height, extreme_quality=True), ignore)
        assert (clip.details["steps"], clip.details["stages"]) == (11, 2)
        made = frames(clip)
        assert made.shape == (17, height * 3 // 2, width)
        assert made.std() > 5

    def test_each_chunk_and_step_of_both_is_told(self, ltx: LtxVideo) -> None:
        seen: list[tuple[int, int]] = []
        clip = ltx.run(request(extreme_quality=True), lambda step, total, preview=None, /: seen.append((step, total)))
        frames(clip)
        assert seen == [(step, 13) for step in range(1, 14)]


class TestFaults:
    @pytest.fixture
    def engine(self, tiny_ltx: Weights) -> LtxVideo:
        engine = LtxVideo()
        engine.load(tiny_ltx, "cpu")
        return engine

    def test_nan_in_the_transformer_ends_the_run_at_its_first_step(self, engine: LtxVideo) -> None:
        engine._pipeline.transformer.proj_out.bias.data.fill_(float("nan"))
        with pytest.raises(NonFiniteOutput, match="after step 1 of 10") as caught:
            engine.run(request(), forbid)
        assert caught.value.recycle

    def test_nan_in_the_sound_of_the_transformer_too(self, engine: LtxVideo) -> None:
        engine._pipeline.transformer.audio_proj_out.bias.data.fill_(float("nan"))
        with pytest.raises(NonFiniteOutput, match="after step 1"):
            engine.run(request(), forbid)

    def test_nan_in_the_decoder_is_seen_before_a_frame_leaves(self, engine: LtxVideo) -> None:
        engine._pipeline.vae.decoder.conv_out.conv.bias.data.fill_(float("nan"))
        clip = engine.run(request(), ignore)
        with pytest.raises(NonFiniteOutput, match="decoded frame"):
            next(clip.chunks)

    def test_nan_in_the_vocoder_is_seen(self, engine: LtxVideo) -> None:
        engine._pipeline.vocoder.bwe_generator.conv_in.bias.data.fill_(float("nan"))
        with pytest.raises(NonFiniteOutput, match="sound"):
            engine.run(request(), ignore)

    def test_frames_that_are_all_the_same_are_no_clip(self, engine: LtxVideo) -> None:
        engine._pipeline.vae.decoder.conv_out.conv.weight.data.zero_()
        clip = engine.run(request(), ignore)
        with pytest.raises(FrozenOutput, match="All 17 frames"):
            frames(clip)
        assert "timings" not in clip.details

    def test_made_sound_that_is_silence_is_none_and_given_silence_is_kept(self, engine: LtxVideo) -> None:
        for part in (engine._pipeline.vocoder.vocoder, engine._pipeline.vocoder.bwe_generator):
            part.conv_out.weight.data.zero_()
            if part.conv_out.bias is not None:
                part.conv_out.bias.data.zero_()
        with pytest.raises(FrozenOutput, match="silence"):
            engine.run(request(), ignore)
        silence = np.zeros_like(tone())
        clip = engine.run(request(sound=silence, start=picture(1)), ignore)
        assert clip.sound is silence

    def test_the_device_s_exhaustion_and_failure_while_denoising(self, engine: LtxVideo) -> None:
        def out_of_memory(step: int, total: int, preview: bytes | None = None, /) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        def lost(step: int, total: int, preview: bytes | None = None, /) -> None:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        with pytest.raises(OutOfMemory, match="17 frames of 64x64"):
            engine.run(request(), out_of_memory)
        with pytest.raises(DeviceLost):
            engine.run(request(), lost)

    def test_and_while_decoding(self, engine: LtxVideo, monkeypatch: pytest.MonkeyPatch) -> None:
        def out_of_memory(*_: object) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

        clip = engine.run(request(), ignore)
        monkeypatch.setattr(engine._pipeline.vae.decoder.conv_out.conv, "forward", out_of_memory)
        with pytest.raises(OutOfMemory, match="decoding 17 frames") as caught:
            next(clip.chunks)
        assert caught.value.recycle


class TestLoad:
    def test_comes_first(self) -> None:
        engine = LtxVideo()
        for call in (lambda: engine.run(request(), ignore), engine.health, lambda: engine.peak_vram_bytes(request())):
            with pytest.raises(NotReady):
                call()

    @staticmethod
    def _edit(file: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
        def edit(root: Path) -> None:
            content = json.loads((root / file).read_text())
            change(content)
            (root / file).write_text(json.dumps(content))

        return edit

    @pytest.mark.parametrize(
        "damage",
        [
            lambda root: (root / "model_index.json").unlink(),
            lambda root: (root / "model_index.json").write_text("[]"),
            lambda root: shutil.rmtree(root / "vae"),
            lambda root: shutil.rmtree(root / "tokenizer"),
            lambda root: shutil.rmtree(root / "latent_upsampler"),
            lambda root: (root / "latent_upsampler" / "config.json").unlink(),
            lambda root: (root / "vocoder" / "diffusion_pytorch_model.safetensors").write_bytes(b""),
            _edit("model_index.json", lambda index: index.update(_class_name="QwenImagePipeline")),
            _edit("latent_upsampler/config.json", lambda config: config.update(spatial_upsample=False)),
            _edit("transformer/config.json", lambda config: config.update(num_attention_heads=4)),
            _edit("vae/config.json", lambda config: config.update(decoder_inject_noise=[True] * 5)),
            _edit("vae/config.json", lambda config: config.update(timestep_conditioning=True)),
        ],
        ids=lambda damage: None,
    )
    def test_damaged_or_unknown_weights_are_refused_at_load(
        self, tiny_ltx: Weights, tmp_path: Path, damage: Callable[[Path], object]
    ) -> None:
        shutil.copytree(tiny_ltx.path, tmp_path / "w")
        damage(tmp_path / "w")
        engine = LtxVideo()
        with pytest.raises(LoadFailed):
            engine.load(Weights("dir:w", tmp_path / "w", "sha256:0"), "cpu")
        with pytest.raises(NotReady):
            engine.health()


class TestDeclarations:
    def test_a_healthy_engine_says_nothing(self, ltx: LtxVideo) -> None:
        ltx.health()

    def test_deadlines_grow_with_the_work(self, ltx: LtxVideo) -> None:
        small = request(width=768, height=512, frames=121)
        large = request(width=1920, height=1088, frames=601)
        assert 120 + 5 * 9 < ltx.deadline_s(small) < 400
        assert ltx.deadline_s(small) < ltx.deadline_s(request(width=1280, height=704, frames=121)) < 600
        assert 3600 < ltx.deadline_s(large) < 4 * 3600
        full = LtxVideo({"schedule": "full"})
        for each in (small, request(width=768, height=512, frames=121, extreme_quality=True)):
            assert full.deadline_s(each) > ltx.deadline_s(each)

    def test_the_cpu_has_no_accelerator_memory(self, ltx: LtxVideo) -> None:
        assert ltx.peak_vram_bytes(request()) == 0

    def test_accelerator_memory_grows_with_the_clip(self, ltx: LtxVideo, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ltx, "_device", "cuda")
        monkeypatch.setattr(ltx, "_weights_bytes", 48_000_000_000)
        assert 52e9 < ltx.peak_vram_bytes(request(width=1280, height=704, frames=121)) < 60e9
        assert ltx.peak_vram_bytes(request(width=1920, height=1088, frames=601)) > 80e9


class TestTokenizer:
    def test_is_laid_out_as_the_real_one(self) -> None:
        tokenizer = train_tokenizer()
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)

    @pytest.mark.parametrize("text", ["a red fox", "Ünïcödé 狐 \U0001f98a\n\t", "42"])
    def test_loses_no_text(self, text: str) -> None:
        tokenizer = train_tokenizer()
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
