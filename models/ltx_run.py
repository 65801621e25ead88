"""One run of LTX-2.3: denoising in one stage or two, the sound, and the frames as they are drawn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from media.arithmetic import latent_prefix
from media.clip import CHUNK_FRAMES
from models.base import FrozenOutput, NonFiniteOutput, OnStep
from models.ltx_decode import decoded
from models.ltx_pipeline import Pinned
from models.ltx_setup import Stage, Stages, choose_refiner
from models.ltx_sound import latents_of, sound_of
from models.previews import Schedule, as_webp
from models.runtime import named_faults
from models.yuv import to_i420

if TYPE_CHECKING:
    import numpy.typing as npt

    from models.ltx_video import VideoRequest

SILENCE = 1e-5
"""The peak (1 is full scale, this is -100 dB) below which made sound counts as none."""

_TOKENS = 1024
_PADDED_STEP = 64


class Run:
    """`request` on `stages`, which are on `device`; `previews` says when they are due, None: never."""

    def __init__(
        self, request: VideoRequest, stages: Stages, device: str, on_step: OnStep, previews: Schedule | None
    ) -> None:
        self._request = request
        self._stages = stages
        self._device = device
        self._on_step = on_step
        self._previews = previews
        self._began = time.perf_counter()
        self._marks: list[float] = []
        self.denoising_steps = stages.whole.steps(request.steps)
        if request.extreme_quality:
            self.denoising_steps += stages.refining.steps(request.steps)
        self._total = self.denoising_steps + -(-request.frames // CHUNK_FRAMES)
        self._done = 0

    def denoise(self, prompt: str, negative: str) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
        """The clip's latents (denormalised; 1, channels, n, height, width), and its sound.

        Raises:
            NonFiniteOutput: NaN or infinity in the latents after a step, or in the sound.
            FrozenOutput: silence where sound was to be made.
        """
        request, fps = self._request, Fraction(self._request.fps)
        # Drawn on the CPU, the noise of a seed is the same on every device.
        self._generator = torch.Generator("cpu").manual_seed(request.seed)
        first = self._stages.whole.pipelines[request.sound is not None]
        heard = None if request.sound is None else latents_of(first, request.sound, request.frames, fps, self._device)
        texts = {"prompt": prompt, "negative_prompt": negative}
        canvas = self._canvas()
        if request.extreme_quality:
            half = canvas[0] // 2, canvas[1] // 2
            latents, made = self._stage(self._stages.whole, half, texts, None, heard)
            known = made if heard is None else heard
            latents, made = self._stage(self._stages.refining, canvas, texts, self._doubled(latents), known)
        else:
            latents, made = self._stage(self._stages.whole, canvas, texts, None, heard)
        if request.sound is not None:
            return latents, request.sound
        sound = sound_of(first, made, request.frames, fps)
        if not np.isfinite(sound).all():
            raise NonFiniteOutput("The sound holds values that are not finite.")
        if np.abs(sound).max() < SILENCE:
            raise FrozenOutput("The sound is silence throughout.")
        return latents, sound

    def draw(self, latents: torch.Tensor, at_once: int, details: dict[str, Any]) -> Iterator[npt.NDArray[np.uint8]]:
        """The frames of `latents` as I420 in chunks of 16 (the last may be shorter), decoded by `at_once` latents.

        `details` gains `timings` after the last one.

        Raises:
            NonFiniteOutput: NaN or infinity in a frame.
            FrozenOutput: after the last chunk, when all frames are the same.
        """
        request = self._request
        denoised, decoding = time.perf_counter() - self._began, 0.0
        first: npt.NDArray[np.uint8] | None = None
        moved = False
        chunks = regrouped(self._planar(latents, at_once), CHUNK_FRAMES)
        while True:
            began = time.perf_counter()
            with named_faults(f"decoding {request.frames} frames of {request.width}x{request.height} pixels"):
                chunk = next(chunks, None)
            decoding += time.perf_counter() - began
            if chunk is None:
                break
            first = chunk[0].copy() if first is None else first
            moved = moved or bool((chunk != first).any())
            self._step()
            yield chunk
        if not moved:
            raise FrozenOutput(f"All {request.frames} frames of the clip are the same.")
        details["timings"] = {
            "totalSeconds": round(denoised + decoding, 3),
            "stepSeconds": round((self._marks[-1] - self._marks[0]) / (len(self._marks) - 1), 3),
            "decodeSeconds": round(decoding, 3),
        }

    def _stage(
        self,
        stage: Stage,
        size: tuple[int, int],
        texts: dict[str, str],
        latents: torch.Tensor | None,
        sound: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        request = self._request
        pipeline = stage.pipelines[request.sound is not None]
        choose_refiner(pipeline.transformer, stage.refiner)
        video, audio = pipeline(
            conditions=self._pinned(size),
            **texts,
            width=size[0],
            height=size[1],
            num_frames=request.frames,
            frame_rate=float(request.fps),
            generator=self._generator,
            latents=latents,
            audio_latents=sound,
            output_type="latent",
            return_dict=False,
            callback_on_step_end=self._stepped,
            callback_on_step_end_tensor_inputs=["latents", "audio_latents"],
            max_sequence_length=_TOKENS,
            **stage.arguments(request.steps),
        )
        return video, audio

    def _canvas(self) -> tuple[int, int]:
        """What is worked on: the promised canvas, for two stages up to multiples of 64 (the first has half of it)."""
        width, height = self._request.width, self._request.height
        if not self._request.extreme_quality:
            return width, height
        return -(-width // _PADDED_STEP) * _PADDED_STEP, -(-height // _PADDED_STEP) * _PADDED_STEP

    def _pinned(self, size: tuple[int, int]) -> list[Pinned]:
        request, canvas = self._request, self._canvas()
        promised = (request.width, request.height)
        pictures = list(request.overlap)
        if request.start is not None:
            pictures[:1] = [request.start]
        fitted = [fit(picture, promised, canvas, size) for picture in pictures]
        prefix = latent_prefix(len(fitted))
        pinned = [Pinned(np.stack(fitted[:prefix]), 0)] if prefix else []
        pinned += [Pinned(fitted[at][None], at) for at in range(prefix, len(fitted))]
        if request.final is not None:
            pinned.append(Pinned(fit(request.final, promised, canvas, size)[None], request.frames - 1))
        return pinned

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _doubled(self, latents: torch.Tensor) -> torch.Tensor:
        upsampler = self._stages.upsampler
        doubled: torch.Tensor = upsampler(latents.to(upsampler.dtype)).float()
        return doubled

    def _stepped(self, pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        # Reading the answer also waits for the device: without it, the host runs steps ahead of the GPU, progress would
        # be early and a stopped run would leave work behind.
        if not all(bool(torch.isfinite(tensors[name]).all()) for name in ("latents", "audio_latents")):
            raise NonFiniteOutput(f"The latents are not finite after step {self._done + 1} of {self._total}.")
        self._marks.append(time.perf_counter())
        due = self._previews is not None and self._previews.due(self._marks[-1] - self._began)
        half = self._request.extreme_quality and self._done < self._stages.whole.steps(self._request.steps)
        self._step(self._preview(pipeline, tensors["latents"], 2 if half else 1) if due else None)
        return {}

    def _step(self, preview: bytes | None = None) -> None:
        self._done += 1
        if preview is None:
            self._on_step(self._done, self._total)
        else:
            self._on_step(self._done, self._total, preview)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _preview(self, pipeline: Any, tokens: torch.Tensor, divisor: int) -> bytes:
        """The latent frame in the middle, decoded alone."""
        vae, request = pipeline.vae, self._request
        width, height = (side // divisor // vae.spatial_compression_ratio for side in self._canvas())
        at = (request.frames - 1) // vae.temporal_compression_ratio // 2 * height * width
        latents = pipeline._unpack_latents(tokens[:, at : at + height * width], 1, height, width)
        latents = pipeline._denormalize_latents(latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
        rgb = vae.decode(latents.to(vae.dtype), return_dict=False)[0][0, :, 0]
        return as_webp(rgb[:, : request.height // divisor, : request.width // divisor].movedim(0, -1))

    def _planar(self, latents: torch.Tensor, at_once: int) -> Iterator[npt.NDArray[np.uint8]]:
        vae = self._stages.whole.pipelines[False].vae
        for rgb in decoded(vae, latents, at_once):
            if not bool(torch.isfinite(rgb).all()):
                raise NonFiniteOutput("A decoded frame holds values that are not finite.")
            yield to_i420(rgb[0, :, :, : self._request.height, : self._request.width].movedim(1, 0)).cpu().numpy()


def fit(
    picture: npt.NDArray[np.uint8], promised: tuple[int, int], canvas: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """`picture` scaled to `promised`, its edges repeated to the right and below up to `canvas`, scaled to `size`."""
    scaled = _scaled(picture, promised)
    right, below = canvas[0] - promised[0], canvas[1] - promised[1]
    if right or below:
        scaled = np.pad(scaled, ((0, below), (0, right), (0, 0)), mode="edge")
    return _scaled(scaled, size)


def _scaled(picture: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    from PIL import Image

    if picture.shape[1::-1] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def regrouped(chunks: Iterator[npt.NDArray[np.uint8]], frames: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The same frames in chunks of `frames`; the last may be shorter."""
    waiting: list[npt.NDArray[np.uint8]] = []
    count = 0
    for chunk in chunks:
        waiting.append(chunk)
        count += len(chunk)
        while count >= frames:
            together = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            yield together[:frames]
            count -= frames
            waiting = [together[frames:].copy()] if count else []
    if waiting:
        yield np.concatenate(waiting)
