"""diffusers' `LTX2ConditionPipeline` with pictures at exact frames and with sound that is given instead of made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTX2ConditionPipeline

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Pinned:
    """`frames`, uint8 sRGB of shape (n, height, width, 3) at the stage's canvas, held from pixel frame `at` on.

    At 0 they take the place of the first latents, 8m + 1 frames; elsewhere it is one frame, as tokens of its own.
    """

    frames: npt.NDArray[np.uint8]
    at: int


class LtxPipeline(LTX2ConditionPipeline):  # type: ignore[misc]
    """As its base, but that

    - conditions are `Pinned`: at the very pixel frame (the base counts in latents, and its last one begins 7 frames before
      the end), and as they are (the base sends single pictures through H.264 first);
    - with `hears`, `audio_latents` are sound that was given: they stay as they are.
    """

    _callback_tensor_inputs = (*LTX2ConditionPipeline._callback_tensor_inputs, "audio_latents")

    hears = False

    def preprocess_conditions(
        self, conditions: Any, height: int, width: int, num_frames: int, device: Any = None
    ) -> tuple[list[torch.Tensor], list[float], list[float], list[int]]:
        """The pixels in -1…1, strengths, latent indices and frame counts of `conditions`, a list of `Pinned` or None.

        The base makes pixel frame (index - 1) x 8 + 1 of an index that is not 0; eighths are exact in binary.
        """
        step = self.vae_temporal_compression_ratio
        pixels, indices, counts = [], [], []
        for pinned in conditions or ():
            # Copied: what came over Ray cannot be written to, and torch has no such tensors.
            frames = torch.from_numpy(np.array(pinned.frames)).to(device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            pixels.append(frames.to(self.vae.dtype))
            indices.append((pinned.at - 1) / step + 1 if pinned.at else 0)
            counts.append(len(pinned.frames))
        return pixels, [1.0] * len(pixels), indices, counts

    def prepare_audio_latents(self, *args: Any, noise_scale: float = 0.0, **kwargs: Any) -> torch.Tensor:
        """The base's; sound that was given gets no noise."""
        made: torch.Tensor = super().prepare_audio_latents(
            *args, noise_scale=0.0 if self.hears else noise_scale, **kwargs
        )
        return made


class HeldScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Of sound that was given: always at timestep 0, and what is predicted for it is dropped."""

    timesteps: torch.Tensor
    sigmas: torch.Tensor

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """The base's schedule in length, all zero. (The pipeline looks for the arguments' names.)"""
        super().set_timesteps(num_inference_steps, device=device, sigmas=sigmas, mu=mu, timesteps=timesteps)
        self.timesteps = torch.zeros_like(self.timesteps)
        self.sigmas = torch.zeros_like(self.sigmas)

    def step(self, model_output: Any, timestep: Any, sample: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        """`sample`."""
        return (sample,)


def share_sigma(transformer: Any) -> None:
    """Let sound at timestep 0, which was given, be seen at the picture's sigma, as Lightricks' own pipeline does.

    There (ltx_core, transformer_args.py) the timestep says how noisy the sound's tokens are, and sigma, which steers the
    attention between sound and picture, how far the run is; diffusers has one number for both. Sound that is being made is
    never at timestep 0.
    """

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not bool(kwargs["audio_timestep"].any()):
            kwargs = {**kwargs, "audio_sigma": kwargs["sigma"]}
        return args, kwargs

    transformer.register_forward_pre_hook(hook, with_kwargs=True)
