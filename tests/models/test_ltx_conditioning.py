"""What is given stays what it is, at the frame where it belongs, whatever the seed makes of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.ltx_options import DISTILLED_SIGMAS, REFINING_SIGMAS
from models.ltx_run import fit
from models.ltx_sound import latents_of
from models.ltx_video import LtxVideo
from tests.models.ltx_clips import frames, ignore, latents, passes, picture, request, run, tone

OVERLAP = tuple(picture(shade) for shade in range(0, 240, 20))
CONDITIONS: dict[str, dict[str, Any]] = {
    "start": {"start": picture(5)},
    "final": {"final": picture(200)},
    "overlap": {"overlap": OVERLAP[:9]},
    "uneven overlap": {"overlap": OVERLAP},
    "sound": {"sound": tone()},
}


def held(given: dict[str, Any]) -> list[float]:
    """The pixel frames at which the tokens beyond the clip's own are held, of a pass at 24 frames a second."""
    own = given["num_frames"] * given["height"] * given["width"]
    begins, ends = (given["video_coords"][0, 0, own:] * 24).unbind(-1)
    assert torch.allclose(ends - begins, torch.ones_like(begins), atol=1e-4)
    return sorted({round(float(at), 3) for at in begins})


@contextmanager
def encoded(engine: LtxVideo) -> Iterator[list[torch.Tensor]]:
    """The pixels that the VAE is given."""
    seen: list[torch.Tensor] = []
    handle = engine._pipeline.vae.encoder.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    try:
        yield seen
    finally:
        handle.remove()


class TestPictures:
    def test_a_start_frame_is_the_first_latent_whatever_the_seed(self, ltx: LtxVideo) -> None:
        one, two = (latents(ltx, start=picture(5), seed=seed) for seed in (1, 2))
        assert float((one - two)[:, :, 0].abs().max()) == 0.0
        assert float((one - two)[:, :, 1].abs().max()) > 0.1

    @pytest.mark.parametrize(("count", "prefix"), [(1, 1), (8, 1), (9, 2), (12, 2), (16, 2), (17, 3), (24, 3)])
    def test_an_overlap_is_the_latents_of_its_longest_prefix_and_each_frame_of_the_rest_is_held(
        self, ltx: LtxVideo, count: int, prefix: int
    ) -> None:
        pictures = tuple(picture(shade * 10) for shade in range(count))
        with passes(ltx) as seen:
            one, two = (latents(ltx, overlap=pictures, frames=25, seed=seed) for seed in (1, 2))
        apart = (one - two).abs().amax((0, 1, 3, 4))
        assert apart[:prefix].max() == 0.0
        assert apart[prefix:].min() > 0.1
        assert held(seen[0]) == list(range(8 * (prefix - 1) + 1, count))

    def test_a_single_overlap_frame_is_a_start_frame(self, ltx: LtxVideo) -> None:
        assert run(ltx, overlap=(picture(5),)).tobytes() == run(ltx, start=picture(5)).tobytes()

    def test_a_start_frame_takes_the_place_of_the_first_overlap_frame(self, ltx: LtxVideo) -> None:
        both = run(ltx, start=picture(5), overlap=OVERLAP[:9])
        assert both.tobytes() == run(ltx, overlap=(picture(5), *OVERLAP[1:9])).tobytes()

    @pytest.mark.parametrize("count", [9, 17, 33])
    def test_a_final_frame_is_held_at_the_last_pixel_frame(self, ltx: LtxVideo, count: int) -> None:
        with passes(ltx) as seen:
            latents(ltx, final=picture(200), frames=count)
        assert held(seen[0]) == [count - 1]

    def test_what_is_held_is_clean_at_every_step(self, ltx: LtxVideo) -> None:
        with passes(ltx) as seen:
            latents(ltx, final=picture(200), start=picture(5))
        own = seen[0]["num_frames"] * seen[0]["height"] * seen[0]["width"]
        first = seen[0]["height"] * seen[0]["width"]
        for given in seen:
            for part in (slice(0, first), slice(own, None)):
                assert torch.equal(given["hidden_states"][:, part], seen[0]["hidden_states"][:, part])
                assert not given["timestep"][:, part].any()
            assert given["timestep"][:, first:own].min() > 0

    def test_pictures_reach_the_model_as_they_are(self, ltx: LtxVideo) -> None:
        noisy = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
        with encoded(ltx) as seen:
            latents(ltx, start=noisy, final=noisy)
        for pixels in seen:
            back = ((pixels[0, :, 0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
            assert np.array_equal(back, noisy)
        assert len(seen) == 2

    def test_pictures_of_a_larger_canvas_are_scaled_to_the_clip_s(self, ltx: LtxVideo) -> None:
        with encoded(ltx) as seen:
            latents(ltx, width=96, start=picture(5, 960, 640), overlap=(picture(0, 48, 32),) * 2)
        assert [tuple(pixels.shape[-2:]) for pixels in seen] == [(64, 96)] * 2

    def test_what_cannot_be_written_to_is_taken_too_as_ray_hands_it_over(self, ltx: LtxVideo) -> None:
        kept: list[npt.NDArray[Any]] = [picture(5), picture(0), picture(20), tone()]
        for each in kept:
            each.setflags(write=False)
        start, overlap, final, sound = kept
        made = run(ltx, start=start, overlap=(overlap,) * 2, final=final, sound=sound)
        assert made.shape == (17, 96, 64)

    @pytest.mark.parametrize("name", CONDITIONS)
    def test_each_condition_counts(self, ltx: LtxVideo, name: str) -> None:
        assert run(ltx, **CONDITIONS[name]).tobytes() != run(ltx).tobytes()


class TestTogether:
    @pytest.mark.parametrize("extreme", [False, True])
    def test_all_at_once(self, ltx: LtxVideo, extreme: bool) -> None:
        sound = tone()
        everything: dict[str, Any] = {"start": picture(5), "final": picture(200), "overlap": OVERLAP, "sound": sound}
        with passes(ltx) as seen:
            clip = ltx.run(request(**everything, extreme_quality=extreme, width=96), ignore)
        assert all(held(given) == [9, 10, 11, 16] for given in seen)
        assert clip.sound is sound
        assert frames(clip).shape == (17, 96, 96)
        one, two = (latents(ltx, **everything, extreme_quality=extreme, width=96, seed=seed) for seed in (1, 2))
        apart = (one - two).abs().amax((0, 1, 3, 4))
        assert apart[:2].max() == 0.0
        assert apart[2] > 0.1


class TestSound:
    def test_the_caller_s_waveform_is_the_clip_s_sample_by_sample(self, ltx: LtxVideo) -> None:
        sound = tone()
        kept = sound.copy()
        clip = ltx.run(request(sound=sound, start=picture(5)), ignore)
        frames(clip)
        assert clip.sound is sound
        assert np.array_equal(sound, kept)

    @pytest.mark.parametrize("extreme", [False, True])
    def test_it_stays_as_it_is_while_the_picture_is_made(self, ltx: LtxVideo, extreme: bool) -> None:
        sound = tone()
        with passes(ltx) as seen:
            latents(ltx, sound=sound, extreme_quality=extreme)
        assert len(seen) == (11 if extreme else 8)
        pipeline = ltx._pipeline
        packed = pipeline._normalize_audio_latents(
            pipeline._pack_audio_latents(latents_of(pipeline, sound, 17, request().fps, "cpu")),
            pipeline.audio_vae.latents_mean,
            pipeline.audio_vae.latents_std,
        )
        for given in seen:
            assert torch.equal(given["audio_hidden_states"], packed)

    def test_its_timestep_is_zero_and_its_sigma_the_picture_s(
        self, ltx: LtxVideo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[Any, Any, Any]] = []
        transformer = ltx._pipeline.transformer
        before = transformer.forward

        def forward(**given: Any) -> Any:
            seen.append((given["audio_timestep"], given["audio_sigma"], given["sigma"]))
            return before(**given)

        monkeypatch.setattr(transformer, "forward", forward)
        latents(ltx, sound=tone())
        assert all(not timestep.any() and torch.equal(ours, sigma) for timestep, ours, sigma in seen)
        assert [round(float(sigma) / 1000, 6) for _, _, sigma in seen] == list(DISTILLED_SIGMAS)
        seen.clear()
        latents(ltx)
        assert all(torch.equal(timestep, ours) and timestep.all() for timestep, ours, _ in seen)

    def test_the_picture_follows_it(self, ltx: LtxVideo) -> None:
        low, high = (run(ltx, sound=tone(hertz=hertz)) for hertz in (220.0, 3000.0))
        assert low.tobytes() != high.tobytes()

    def test_a_run_with_sound_changes_none_without(self, ltx: LtxVideo) -> None:
        before = run(ltx)
        run(ltx, sound=tone())
        assert run(ltx).tobytes() == before.tobytes()


class TestStages:
    def test_one_pass_a_step(self, ltx: LtxVideo) -> None:
        with passes(ltx) as seen:
            latents(ltx)
        assert len(seen) == len(DISTILLED_SIGMAS)
        assert all(given["hidden_states"].shape[0] == 1 and not given["isolate_modalities"] for given in seen)

    def test_half_the_padded_canvas_then_all_of_it(self, ltx: LtxVideo) -> None:
        with passes(ltx) as seen, encoded(ltx) as pixels:
            latents(ltx, width=96, height=64, extreme_quality=True, start=picture(5, 96, 64))
        sizes = [(given["height"], given["width"]) for given in seen]
        assert sizes == [(1, 2)] * len(DISTILLED_SIGMAS) + [(2, 4)] * len(REFINING_SIGMAS)
        sigmas = [round(float(given["sigma"]) / 1000, 6) for given in seen]
        assert sigmas == [*DISTILLED_SIGMAS, *REFINING_SIGMAS]
        assert [tuple(each.shape[-2:]) for each in pixels] == [(32, 64), (64, 128)]

    def test_the_second_begins_with_what_the_first_made(self, ltx: LtxVideo) -> None:
        doubled: list[torch.Tensor] = []
        handle = ltx._stages.upsampler.register_forward_hook(lambda _, given, made: doubled.append(made))
        try:
            made = latents(ltx, extreme_quality=True, width=128, start=picture(5, 128, 64))
        finally:
            handle.remove()
        assert [each.shape for each in doubled] == [made.shape]


class TestFit:
    def test_what_fits_is_not_touched(self) -> None:
        given = picture(5)
        assert fit(given, (64, 64), (64, 64), (64, 64)) is given

    def test_edges_are_repeated_beyond_the_promised_canvas(self) -> None:
        made = fit(picture(5, 96, 160), (96, 160), (128, 192), (128, 192))
        assert made.shape == (192, 128, 3)
        assert np.array_equal(made[:160, :96], picture(5, 96, 160))
        assert (made[:160, 96:] == made[:160, 95:96]).all()
        assert (made[160:] == made[159]).all()
