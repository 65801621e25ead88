"""Qwen-Image-Edit: a picture from a text and from other pictures, by diffusers' `QwenImageEditPlusPipeline`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any

from models.base import OnStep
from models.qwen_image import ImageRequest, ImageResult, QwenImage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from models.weights import Weights

MAX_ASPECT = 4
"""Pictures beyond 4:1 are padded to it with white: the pipeline scales to an area, and a thin side would come to nothing."""


class QwenImageEdit(QwenImage):
    """Text and pictures to image. `references` are Picture 1, Picture 2, … in the prompt; the first is what is edited."""

    name = "qwen-image-edit"
    peak_ram_bytes = 1_200_000_000
    _class_name = "QwenImageEditPlusPipeline"

    def run(self, request: ImageRequest, on_step: OnStep) -> ImageResult:
        """See `QwenImage.run`.

        Raises:
            ValueError: no references.
        """
        with self._areas():
            return super().run(request, on_step)

    def deadline_s(self, request: ImageRequest) -> float:
        """See `Engine.deadline_s`: each reference is as much work as a megapixel."""
        pixels = request.width * request.height + len(request.references) * self.options.reference_pixels
        return 60.0 + 6.0 * request.steps * pixels / 1_000_000

    def _components(self, weights: Weights) -> dict[str, Any]:
        from transformers import Qwen2Tokenizer
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        folder = weights.path / "processor"
        pictures = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        return {"processor": processor_of(pictures, tokenizer)}

    def _tokenizer(self, pipeline: Any) -> Any:
        return pipeline.processor.tokenizer

    def _inputs(self, request: ImageRequest) -> dict[str, Any]:
        from PIL import Image

        if not request.references:
            raise ValueError(
                "the edit engine needs one reference at least; without any, use the text-to-image engine's pool"
            )
        return {"image": [Image.fromarray(padded(pixels)) for pixels in request.references]}

    def _proof(self, width: int, height: int, steps: int) -> ImageRequest:
        import numpy as np

        ramp = np.linspace(0, 255, 96 * 64 * 3).astype(np.uint8).reshape(64, 96, 3)
        return ImageRequest(prompt="a red fox", width=width, height=height, steps=steps, seed=0, references=(ramp,))

    @contextmanager
    def _areas(self) -> Iterator[None]:
        """The areas to which the pipeline scales its pictures; it has no argument for them."""
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

        before = module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE
        module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE = (
            self.options.reference_pixels,
            self.options.condition_pixels,
        )
        try:
            yield
        finally:
            module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE = before


def padded(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`pixels`, uint8 of shape (height, width, 3), centred on white so that no side is over four times the other."""
    import numpy as np

    height, width = pixels.shape[:2]
    to_height, to_width = max(height, ceil(width / MAX_ASPECT)), max(width, ceil(height / MAX_ASPECT))
    top, left = to_height - height, to_width - width
    margins = ((top // 2, top - top // 2), (left // 2, left - left // 2), (0, 0))
    return np.pad(pixels, margins, constant_values=255) if top or left else pixels


def processor_of(pictures: Any, tokenizer: Any) -> Any:
    """A `Qwen2VLProcessor` for pictures alone: its part for videos needs torchvision, and nothing here shows it one."""
    from transformers import Qwen2VLProcessor
    from transformers.processing_utils import ProcessorMixin

    class PictureProcessor(Qwen2VLProcessor):  # type: ignore[misc]
        def __init__(self, image_processor: Any = None, tokenizer: Any = None) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer)

    return PictureProcessor(pictures, tokenizer)
