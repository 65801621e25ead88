"""RIFE: a clip at another frame rate. Movement between two frames is followed, not blended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, product
from math import ceil
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from media.clip import CHUNK_FRAMES, Clip
from models.base import Engine, EngineFault, EngineOptions, LoadFailed, NonFiniteOutput, NotReady, OnStep
from models.rife_timing import Timeline
from models.runtime import dtype_for, is_cpu, named_faults

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from models.rife_frames import Frame
    from models.weights import Weights

WEIGHTS_FILE = "flownet.pkl"
"""The file that is looked for where the weights are a folder."""
_CUTS_TOLD = 32
"""The first so many stand in a job's record; noise has one at every frame."""
FULL_SCALE_PIXELS = 1920 * 1088
"""Frames beyond this many pixels are searched for movement at half size, unless the options say otherwise."""

_SCALES = (0.25, 0.5, 1.0)
_PROOF_SIZES = ((128, 96), (192, 64))
_HALF = Fraction(1, 2)


class RifeOptions(EngineOptions):
    """The `options` of a pool whose engine is rife."""

    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto", description="auto: float16 on an accelerator, float32 on the CPU. Positions are float32 always."
    )
    scale: float | None = Field(
        None, description="0.25, 0.5 or 1: of the pictures in which movement is found. None: 1, and 0.5 beyond 1080p."
    )
    batch: int | None = Field(
        None,
        ge=1,
        le=CHUNK_FRAMES,
        description="Most frames between the same two that are made at once. None: 4, CPU 1.",
    )
    compile: bool = Field(False, description="Compile the network at load, for any size (minutes).")

    @field_validator("scale")
    @classmethod
    def _known(cls, scale: float | None) -> float | None:
        if scale is not None and scale not in _SCALES:
            raise ValueError(f"scale must be one of {', '.join(map(str, _SCALES))}")
        return scale


@dataclass(frozen=True, kw_only=True)
class InterpolationRequest:
    """`frames` frames at `fps` (a Fraction, or an int) of the clip `source` from its beginning, at its size.

    `source` is a `media.clip.Clip` (on its way to an engine: something that becomes one). `frames` may be fewer than the
    whole clip gives, which cuts its end off, or more: then the last frame is held.

    Raises:
        ValueError: `fps` or `frames` is not positive.
        TypeError: `fps` is neither a Fraction nor an int: a float is no exact rate.
    """

    source: Any
    fps: Fraction
    frames: int

    def __post_init__(self) -> None:
        given: Any = self.fps
        if isinstance(given, bool) or not isinstance(given, Fraction | int):
            raise TypeError(f"fps {given!r}: must be a Fraction or an int")
        if self.fps <= 0:
            raise ValueError(f"fps {self.fps}: must be positive")
        if self.frames < 1:
            raise ValueError(f"{self.frames} frames: a clip has at least one")
        object.__setattr__(self, "fps", Fraction(self.fps))


class Rife(Engine[InterpolationRequest, Clip]):
    """Frames between frames. The same request on the same kind of device and weights gives the same bytes.

    Frame `i` shows the moment `i` ÷ `fps` of the source, exactly; the first and the last are the source's own. Where that
    moment is a source frame, its bytes are passed on. Across a cut, the nearer of both frames is repeated.
    """

    Options = RifeOptions
    options: RifeOptions
    name = "rife"
    cancel = "step"
    step_limit_s = 300.0
    peak_ram_bytes = 700_000_000  # measured at 768x512 on the CPU: 0.53 GB; at 1920x1088 there: 1.4 GB

    _network: Any = None
    _device = ""
    _dtype: Any = None
    _weights_bytes = 0

    def load(self, weights: Weights, device: str) -> None:
        """See `Engine.load`. Weights are one file, or a folder with `WEIGHTS_FILE`; none of its code is run.

        On an accelerator, or compiled, small clips are made before it returns.
        """
        import torch

        from models import rife_network

        self._network = None
        dtype = dtype_for(device, self.options.dtype)
        if self.options.dtype == "auto" and not is_cpu(device):
            dtype = torch.float16
        torch.backends.cudnn.deterministic = True
        path = weights.path / WEIGHTS_FILE if weights.path.is_dir() else weights.path
        unfit = (OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, EOFError, UnpicklingError)
        try:
            with named_faults(f"loading {weights.reference}"):
                network = rife_network.read(path, device, dtype)
        except unfit as error:
            raise LoadFailed(f"{weights.reference}: {path} holds no weights of RIFE 4.25: {error}") from error
        self._weights_bytes = sum(each.numel() * each.element_size() for each in network.parameters())
        self._device, self._dtype = device, dtype
        if self.options.compile:
            network.compile(dynamic=True)
        if not is_cpu(device):
            self.step_limit_s = 60.0
        self._network = network
        if self.options.compile or not is_cpu(device):
            self._prove(weights.reference)

    def run(self, request: InterpolationRequest, on_step: OnStep) -> Clip:
        """See `Engine.run`: the clip is returned at once, and its chunks are made as they are drawn, each of them a step.

        Source frames are drawn when they are needed, and two of them are held. The sound is the source's own.
        Drawing raises what `Engine.run` does.

        Raises:
            NonFiniteOutput: NaN or infinity in a frame.
            OutOfMemory, DeviceLost, NotReady, Stopped: as in `Engine`.
            TypeError: the source is no clip.
            ValueError: the source has odd or no sides, or its chunks are not those that it promised.
        """
        self._ready()
        source = request.source
        if not isinstance(source, Clip):
            raise TypeError(f"the source is a {type(source).__name__}, not a clip")
        if min(source.width, source.height) < 2 or source.width % 2 or source.height % 2 or source.frames < 1:
            raise ValueError(f"{source.frames} frames of {source.width}x{source.height}: I420 has even sides")
        details: dict[str, Any] = {
            "sourceFrames": source.frames,
            "sourceFps": str(source.fps),
            "fps": str(request.fps),
            "interpolated": 0,
            "cuts": [],
            "scale": self._scale(source.width, source.height),
            "dtype": str(self._dtype).removeprefix("torch."),
            "compiled": self.options.compile,
            "timings": {"networkSeconds": 0.0},
            "adjustments": [],
        }
        chunks = self._chunks(request, on_step, details)
        return Clip(source.width, source.height, request.fps, request.frames, chunks, source.sound, details)

    def health(self) -> None:
        """See `Engine.health`. Asks the driver, which reports a broken context and waits for no work."""
        import torch

        self._ready()
        if torch.device(self._device).type == "cuda":
            with named_faults("asking the device for its memory"):
                torch.cuda.mem_get_info(self._device)

    def deadline_s(self, request: InterpolationRequest) -> float:
        """See `Engine.deadline_s`. A minute, and a frame and megapixel 15 s on the CPU, a second elsewhere.

        Measured on one busy core: 1 s. Drawing the source and what becomes of the frames count as well.
        """
        megapixels = request.source.width * request.source.height / 1_000_000
        return float(60.0 + (15.0 if self._device == "cpu" else 1.0) * request.frames * megapixels)

    def peak_vram_bytes(self, request: InterpolationRequest) -> int:
        """See `Engine.peak_vram_bytes`. Half a gigabyte, the weights, and 500 bytes a pixel of each frame made at once.

        An estimate: on the CPU, in float32, the last is what was measured.

        Raises:
            NotReady: the weights decide, and there are none yet.
        """
        self._ready()
        if self._device == "cpu":
            return 0
        pixels: int = request.source.width * request.source.height
        return self._weights_bytes + 500_000_000 + 500 * pixels * self._batch()

    @property
    def network(self) -> Any:
        """The loaded `rife_network.IFNet`.

        Raises:
            NotReady: there is none yet.
        """
        return self._ready()

    def _ready(self) -> Any:
        if self._network is None:
            raise NotReady("The engine has no weights; call load first.")
        return self._network

    def _batch(self) -> int:
        return self.options.batch or (1 if is_cpu(self._device) else 4)

    def _scale(self, width: int, height: int) -> float:
        return self.options.scale or (1.0 if width * height <= FULL_SCALE_PIXELS else 0.5)

    def _chunks(
        self, request: InterpolationRequest, on_step: OnStep, details: dict[str, Any]
    ) -> Iterator[npt.NDArray[np.uint8]]:
        import numpy as np

        from models.rife_frames import Frames

        source = request.source
        frames, timeline = Frames(source), Timeline(source.frames, source.fps, request.fps)
        total = ceil(request.frames / CHUNK_FRAMES)
        for step in range(total):
            indices = range(step * CHUNK_FRAMES, min((step + 1) * CHUNK_FRAMES, request.frames))
            chunk = np.empty((len(indices), source.height * 3 // 2, source.width), np.uint8)
            moments = enumerate(map(timeline.at, indices))
            for number, group in groupby(moments, key=lambda moment: moment[1][0]):
                first, between = frames.at(number), []
                for place, (_, time_between) in group:
                    if time_between:
                        between.append((place, time_between))
                    else:
                        chunk[place] = first.planes
                if between:
                    places, times = zip(*between, strict=True)
                    self._fill(chunk, places, times, (first, frames.at(number + 1)), details)
            on_step(step + 1, total)
            yield chunk

    def _fill(
        self,
        chunk: npt.NDArray[np.uint8],
        places: Sequence[int],
        times: Sequence[Fraction],
        pair: tuple[Frame, Frame],
        details: dict[str, Any],
    ) -> None:
        """Put the frames at `times` between two source frames at `places` of the chunk."""
        import numpy as np

        from models.rife_frames import same_shot

        first, second = pair
        if not same_shot(first, second):
            if second.number not in details["cuts"][-1:] and len(details["cuts"]) < _CUTS_TOLD:
                details["cuts"].append(second.number)
            for place, between in zip(places, times, strict=True):
                chunk[place] = first.planes if between <= _HALF else second.planes
            return
        if np.array_equal(first.planes, second.planes):
            chunk[list(places)] = first.planes
            return
        began = time.perf_counter()
        batch = self._batch()
        for start in range(0, len(places), batch):
            chunk[list(places[start : start + batch])] = self._between(first, second, times[start : start + batch])
        details["interpolated"] += len(places)
        spent = details["timings"]["networkSeconds"] + time.perf_counter() - began
        details["timings"]["networkSeconds"] = round(spent, 3)

    def _between(self, first: Frame, second: Frame, times: Sequence[Fraction]) -> npt.NDArray[np.uint8]:
        """I420 frames at `times` between two frames."""
        import torch

        from models.yuv import to_i420

        height, width = len(first.planes) * 2 // 3, first.planes.shape[1]
        scale = self._scale(width, height)
        with named_faults(f"making {len(times)} frames of {width}x{height} pixels"), torch.inference_mode():
            moments = torch.tensor([float(each) for each in times], device=self._device)
            one, two = self._prepared(first, scale), self._prepared(second, scale)
            made = self._network(one, two, moments, scale)[:, :, :height, :width].float()
            if not bool(torch.isfinite(made.sum())):
                raise NonFiniteOutput(f"The frames between {first.number} and {second.number} are not finite.")
            planes: npt.NDArray[np.uint8] = to_i420(made).cpu().numpy()
            return planes

    def _prepared(self, frame: Frame, scale: float) -> Any:
        """What the network needs of a frame, made once; padded at the right and below by its last pixels."""
        import torch

        from models.rife_network import grain
        from models.yuv import from_i420

        if frame.prepared is None:
            rgb = from_i420(torch.from_numpy(frame.planes)[None].to(self._device)).to(self._dtype)
            height, width = rgb.shape[2:]
            multiple = grain(scale)
            rgb = torch.nn.functional.pad(rgb, (0, -width % multiple, 0, -height % multiple), mode="replicate")
            frame.prepared = self._network.prepare(rgb.contiguous(memory_format=torch.channels_last))
        return frame.prepared

    def _prove(self, reference: str) -> None:
        import numpy as np

        try:
            # At 24 two frames are made at once, at 30 one: a compiler takes a batch of one for something else.
            for (width, height), fps in product(_PROOF_SIZES, (24, 30)):
                ramp = np.linspace(30, 200, width * height * 3 // 2).astype(np.uint8).reshape(1, height * 3 // 2, width)
                clip = Clip(width, height, Fraction(fps), 2, iter((ramp, ramp + 2)), None, {})
                made = self.run(InterpolationRequest(source=clip, fps=Fraction(60), frames=3), lambda *_: None)
                list(made.chunks)
        except EngineFault:
            self._network = None
            raise
        except Exception as error:
            # The compiler's and the driver's exceptions have no common class.
            self._network = None
            raise LoadFailed(f"{reference} loads, but cannot make a frame with these options: {error}") from error
