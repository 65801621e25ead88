"""LTX-2.3: a clip with sound from a text, from pictures and from sound, by diffusers' LTX-2 pipelines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from media.arithmetic import MAX_PIXELS, SIDE_STEP, is_clip_length
from media.clip import Clip, sound_samples
from models.base import OnStep
from models.diffusers_engine import DiffusersEngine, adjustment, plain_text
from models.ltx_options import DISTILLED_SIGMAS, GUIDED_PASSES, MIN_STEPS, REFINING_SIGMAS, LtxOptions
from models.previews import Schedule
from models.runtime import named_faults

if TYPE_CHECKING:
    from models.weights import Weights

MIN_SIDE = 64
MIN_FRAMES, MAX_FRAMES = 9, 601
MAX_PROMPT_TOKENS = 1000
"""The longest prompt; the pipeline holds 1024 tokens with those that it adds."""
PREVIEW_SECONDS = 2.0
"""Until the first preview; each further one comes after twice the time, so that a run of any length has a few."""
_FULL_STEP_LIMIT_SECONDS = 590.0
_PROOFS = ((256, 256, 9, False), (320, 192, 17, True))


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """A clip to make: `frames` frames (8n + 1) of `width` x `height` pixels at `fps`, from the noise that `seed` gives.

    `steps` are those of the full schedule; a distilled model has its own count. With `extreme_quality` the clip is made
    at half the size first, then doubled and refined. `start` is frame 0 and `final` the last one; frame i is `overlap[i]`,
    and `start` goes before `overlap[0]`. They are uint8 sRGB of shape (h, w, 3) with the canvas's aspect, and are scaled
    to it. `sound` is float32 of shape (2, n) at 48 kHz in -1…1, exactly as long as the clip, which follows and carries it.
    (On their way to an engine, all four are references to such.)

    Raises:
        ValueError: a size, a length, a rate, a count of steps or a seed that no clip can have.
    """

    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    frames: int
    fps: Fraction | int
    steps: int
    seed: int
    extreme_quality: bool = False
    start: Any = None
    final: Any = None
    overlap: tuple[Any, ...] = ()
    sound: Any = None

    def __post_init__(self) -> None:
        for side in (self.width, self.height):
            if side < MIN_SIDE or side % SIDE_STEP:
                raise ValueError(
                    f"{self.width}x{self.height}: both sides must be multiples of {SIDE_STEP}, {MIN_SIDE} at least"
                )
        if self.width * self.height > MAX_PIXELS:
            raise ValueError(f"{self.width}x{self.height}: {MAX_PIXELS} pixels at most")
        if not is_clip_length(self.frames) or not MIN_FRAMES <= self.frames <= MAX_FRAMES:
            raise ValueError(f"{self.frames} frames: must be 8n + 1, from {MIN_FRAMES} to {MAX_FRAMES}")
        if not 1 <= self.fps <= 60:
            raise ValueError(f"{self.fps} frames a second: must be from 1 to 60")
        if self.steps < MIN_STEPS:
            raise ValueError(f"{self.steps} steps: LTX-2.3 needs at least {MIN_STEPS}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed}: must be from 0 to 2^63 - 1")
        if len(self.overlap) >= self.frames:
            raise ValueError(f"{len(self.overlap)} overlap frames: must be fewer than the clip's {self.frames}")


class LtxVideo(DiffusersEngine[VideoRequest, Clip]):
    """Text, pictures and sound to a clip. The same request on the same kind of device and weights gives the same bytes."""

    Options = LtxOptions
    options: LtxOptions
    name = "ltx-video"
    cancel = "step"
    step_limit_s = 180.0
    peak_ram_bytes = (
        1_200_000_000  # measured for 601 frames on the CPU: 0.96 GB at 160x96, 0.89 at 256x160 in two stages
    )
    _class_name = "LTX2ConditionPipeline"
    _makes = "clip"

    def run(self, request: VideoRequest, on_step: OnStep) -> Clip:
        """See `Engine.run`: returns when all is denoised and the sound is made. Frames are decoded as they are drawn.

        A step is a denoising step, of both stages, or a chunk of 16 decoded frames: `on_step` is also called, and may end
        the run, while the clip's chunks are drawn. `details` are complete after the last one.

        Raises:
            ValueError: a picture or a sound of another shape than the request promises.
            NonFiniteOutput: NaN or infinity in the latents after a step, in the sound, or in a frame as it is drawn.
            FrozenOutput: silence where sound was to be made; or, when the last chunk is drawn, all frames are the same.
            OutOfMemory, DeviceLost, NotReady, Stopped: as in `Engine`.
        """
        from models import ltx_run

        pipeline = self._ready()
        _check(request)
        previews = Schedule(PREVIEW_SECONDS) if self.options.previews else None
        run = ltx_run.Run(request, self._stages, self._device, on_step, previews)
        adjustments: list[dict[str, Any]] = []
        prompt = self._text("prompt", request.prompt, adjustments)
        negative = self._text("negativePrompt", request.negative_prompt, adjustments)
        if self.options.schedule == "distilled" and negative.strip():
            adjustments.append(adjustment("negativePrompt", negative, "", "this model is distilled and takes none"))
        with named_faults(f"making {request.frames} frames of {request.width}x{request.height} pixels"):
            latents, sound = run.denoise(prompt, negative)
        details: dict[str, Any] = {
            "seed": request.seed,
            "steps": run.denoising_steps,
            "stages": 2 if request.extreme_quality else 1,
            "guidanceScale": self._stages.whole.guidance["guidance_scale"],
            "scheduler": type(pipeline.scheduler).__name__,
            **self._setup,
            "adjustments": adjustments,
        }
        chunks = run.draw(latents, self.options.decode_latents, details)
        size = (request.width, request.height)
        return Clip(*size, Fraction(request.fps), request.frames, chunks, sound, details)

    def deadline_s(self, request: VideoRequest) -> float:
        """See `Engine.deadline_s`. Two minutes, and five times what published runs give for denoising and decoding.

        8 steps of 768x512x121 (6144 latents) take 9.5 s on one H100 (sglang issue 23137): 5200 latents a second. Attention
        grows with the square: from 48 000 latents on it costs more than all the rest.
        """
        latents, refining = _latents(request), 0.0
        steps = len(DISTILLED_SIGMAS) if self.options.schedule == "distilled" else request.steps
        if request.extreme_quality:
            alone = self.options.schedule == "full" and self.options.refiner is None
            refining = len(REFINING_SIGMAS) * (GUIDED_PASSES if alone else 1) * _seconds_a_pass(latents)
            latents /= 4
        denoising = self.options.passes() * steps * _seconds_a_pass(latents) + refining
        decoding = request.frames * request.width * request.height / 20e6
        return 120.0 + 5 * (denoising + decoding)

    def peak_vram_bytes(self, request: VideoRequest) -> int:
        """See `Engine.peak_vram_bytes`. Beside the weights 2 GB, and 0.3 MB a latent and prompt of one pass.

        Counted on the architecture in bfloat16, not measured: per latent 104 kB of modulation, 64 kB in the feed-forward
        layer, 40 kB in attention, 32 kB of position; the rest is for what is alive beside it. Guidance runs two prompts at
        once.

        Raises:
            NotReady: the weights decide, and there are none yet.
        """
        self._ready()
        if self._device == "cpu":
            return 0
        prompts = 2 if self.options.schedule == "full" else 1
        return self._weights_bytes + round(2e9 + 0.3e6 * prompts * _latents(request))

    def _read(self, weights: Weights, dtype: Any) -> Any:
        from models import ltx_setup

        return ltx_setup.read(weights, dtype)

    def _settle(self, pipeline: Any, weights: Weights, device: str) -> dict[str, Any]:
        from models import ltx_setup

        self._stages, chosen = ltx_setup.prepare(pipeline, self.options, weights, device)
        if self.options.schedule == "full":
            self.step_limit_s = _FULL_STEP_LIMIT_SECONDS
        special = (token.content for token in pipeline.tokenizer.added_tokens_decoder.values() if token.special)
        self._control = re.compile("|".join(sorted(map(re.escape, special), key=len, reverse=True)))
        return chosen

    def _proofs(self) -> Iterator[VideoRequest]:
        import numpy as np

        for width, height, frames, extreme in _PROOFS:
            ramp = np.linspace(0, 255, height * width * 3).astype(np.uint8).reshape(height, width, 3)
            yield VideoRequest(
                prompt="a red fox",
                width=width,
                height=height,
                frames=frames,
                fps=24,
                steps=MIN_STEPS,
                seed=0,
                extreme_quality=extreme,
                start=ramp if extreme else None,
            )

    def _draw(self, request: VideoRequest, on_step: OnStep) -> None:
        for _ in self.run(request, on_step).chunks:
            pass

    def _text(self, name: str, text: str, adjustments: list[dict[str, Any]]) -> str:
        return plain_text(self._pipeline.tokenizer, self._control, name, text, MAX_PROMPT_TOKENS, adjustments)


def _check(request: VideoRequest) -> None:
    """The shapes of what conditions `request`; on their way they were references."""
    import numpy as np

    pictures = {"start": request.start, "final": request.final}
    pictures |= {f"overlap[{at}]": picture for at, picture in enumerate(request.overlap)}
    for name, picture in pictures.items():
        if picture is None:
            continue
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(f"{name}: must be uint8 of shape (height, width, 3), not {picture.dtype} {picture.shape}")
    wanted = (2, sound_samples(request.frames, Fraction(request.fps)))
    sound = request.sound
    if sound is not None and (sound.dtype != np.float32 or sound.shape != wanted or not np.isfinite(sound).all()):
        raise ValueError(f"sound: must be finite float32 of shape {wanted}, not {sound.dtype} {sound.shape}")


def _latents(request: VideoRequest) -> float:
    return (1 + (request.frames - 1) // 8) * request.width * request.height / 1024


def _seconds_a_pass(latents: float) -> float:
    return latents * (1 + latents / 48_000) / 5200
