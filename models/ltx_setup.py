"""From a folder of weights to LTX-2.3's pipelines on their device: one for each stage, with and without given sound."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.base import LoadFailed
from models.diffusers_setup import require, require_peft, settle
from models.ltx_decode import fits
from models.ltx_options import (
    DISTILLED_SIGMAS,
    GUIDED,
    LORA,
    PERTURBED_BLOCK,
    REFINING_SIGMAS,
    UNGUIDED,
    UPSAMPLER,
    LtxOptions,
)
from models.ltx_pipeline import HeldScheduler, LtxPipeline, share_sigma

if TYPE_CHECKING:
    from models.weights import Weights

_FAMILY = "LTX2"
_UPSAMPLER_FOLDER = "latent_upsampler"
_RAW = {"use_dynamic_shifting": False, "shift": 1.0, "shift_terminal": None}
"""Sigmas that are named are meant as they stand."""


@dataclass(frozen=True)
class Stage:
    """One denoising: `pipelines` by whether sound was given, each with schedulers of its own.

    `sigmas` are the steps; None: as many as were asked for, shifted by the scheduler. `guidance` goes to the pipeline.
    """

    pipelines: dict[bool, Any]
    sigmas: tuple[float, ...] | None
    guidance: dict[str, Any]
    refiner: bool

    def steps(self, asked: int) -> int:
        """How many steps a request of `asked` steps is given."""
        return asked if self.sigmas is None else len(self.sigmas)

    def arguments(self, asked: int) -> dict[str, Any]:
        """What the pipeline is given for it."""
        sigmas = None if self.sigmas is None else list(self.sigmas)
        return {"num_inference_steps": self.steps(asked), "sigmas": sigmas, **self.guidance}


@dataclass(frozen=True)
class Stages:
    """`whole`: the only one, or the first of two; then `upsampler` doubles the latents' sides, and `refining` follows."""

    whole: Stage
    refining: Stage
    upsampler: Any


def read(weights: Weights, dtype: Any) -> Any:
    """The pipeline of the folder, with its upsampler, in host memory.

    Raises:
        LoadFailed: they are another model's, or a part is missing.
    """
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

    made_for = LtxPipeline.load_config(weights.path, local_files_only=True)["_class_name"]
    if not made_for.startswith(_FAMILY):
        raise LoadFailed(f"{weights.reference} was made for {made_for}, not for one of the {_FAMILY} pipelines.")
    plain = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
    pipeline = LtxPipeline.from_pretrained(weights.path, **plain)
    # An absent tokenizer loads as an empty one, which knows no word.
    if set(pipeline.tokenizer("a red fox", add_special_tokens=False).input_ids) <= {pipeline.tokenizer.unk_token_id}:
        raise LoadFailed(f"{weights.reference}: its tokenizer is missing.")
    folder = weights.additions.get(UPSAMPLER, weights).path / _UPSAMPLER_FOLDER
    if not folder.is_dir():
        raise LoadFailed(
            f"{weights.reference} has no folder {_UPSAMPLER_FOLDER}, which extremeQuality needs; name weights that have "
            "one under options.upsampler."
        )
    _known_keys(folder)
    pipeline.latent_upsampler = LTX2LatentUpsamplerModel.from_pretrained(folder, **plain)
    return pipeline


def prepare(pipeline: Any, options: LtxOptions, weights: Weights, device: str) -> tuple[Stages, dict[str, Any]]:
    """Put `pipeline`, from `read`, on `device` as `options` say; its stages, and what was chosen, as JSON.

    Raises:
        LoadFailed: an option cannot be had here, or the weights are of a kind that the engine does not know.
    """
    require(options, device)
    if not fits(pipeline.vae):
        raise LoadFailed(f"{weights.reference}: its VAE takes a timestep or makes noise; LTX-2.3's does neither.")
    if options.refiner is not None:
        require_peft("refiner")
        _add_refiner(pipeline, weights.additions[LORA])
    modules = ("vae", "audio_vae", "connectors", "vocoder", "latent_upsampler")
    attention = settle(pipeline, options, device, modules, kept="gate")
    share_sigma(pipeline.transformer)
    chosen = {
        "attention": attention,
        "compiled": options.compile,
        "quantization": options.quantization,
        "schedule": options.schedule,
        "refiner": options.refiner is not None,
    }
    return _stages(pipeline, options), chosen


def choose_refiner(transformer: Any, wanted: bool) -> None:
    """Switch the refining LoRA on or off, where there is one. A run that was stopped leaves it as it was."""
    if not getattr(transformer, "peft_config", None):
        return
    if wanted:
        transformer.enable_adapters()
    else:
        transformer.disable_adapters()


def _stages(pipeline: Any, options: LtxOptions) -> Stages:
    block = min(PERTURBED_BLOCK, len(pipeline.transformer.transformer_blocks) - 1)
    guided = {**GUIDED, "spatio_temporal_guidance_blocks": [block]}
    full = options.schedule == "full"
    first = _stage(pipeline, None, guided) if full else _stage(pipeline, DISTILLED_SIGMAS, dict(UNGUIDED))
    alone = full and options.refiner is None
    second = _stage(pipeline, REFINING_SIGMAS, guided if alone else dict(UNGUIDED), refiner=options.refiner is not None)
    return Stages(first, second, pipeline.latent_upsampler)


def _stage(
    pipeline: Any, sigmas: tuple[float, ...] | None, guidance: dict[str, Any], *, refiner: bool = False
) -> Stage:
    parts = {name: part for name, part in pipeline.components.items() if not name.endswith("scheduler")}
    base = pipeline.scheduler
    changes = {} if sigmas is None else _RAW
    pipelines = {}
    for heard in (False, True):
        made = LtxPipeline(
            **parts,
            scheduler=type(base).from_config(base.config, **changes),
            audio_scheduler=HeldScheduler.from_config(base.config) if heard else None,
        )
        made.hears = heard
        made.set_progress_bar_config(disable=True)
        pipelines[heard] = made
    return Stage(pipelines, sigmas, guidance, refiner)


def _add_refiner(pipeline: Any, lora: Weights) -> None:
    pipeline.load_lora_weights(str(lora.path.parent), weight_name=lora.path.name, adapter_name=LORA)
    if not pipeline.get_list_adapters().get("transformer"):
        raise LoadFailed(f"{lora.reference}: its file {lora.path.name} holds no LoRA for this transformer.")


def _known_keys(folder: Path) -> None:
    """Without its configuration diffusers would make an upsampler of another shape and say so only in passing."""
    if json.loads((folder / "config.json").read_text())["spatial_upsample"] is not True:
        raise LoadFailed(f"{folder.name} is not one that doubles a picture's sides.")
