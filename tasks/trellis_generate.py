"""`trellis.generate`: a textured low-poly mesh from a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

from tasks.base import Findings, Task
from tasks.examples import EXAMPLES
from tasks.fields import PLAIN, WHOLE, TaskInput
from tasks.media_fields import ImageReference, MediaUrl, canonical
from tasks.validation import ALLOWED


def _preset(mesh: int, texture: int, steps: int, faces: int, size: int) -> Mapping[str, Any]:
    return {
        "meshResolution": mesh,
        "textureResolution": texture,
        "sparseStructureSteps": steps,
        "shapeSteps": steps,
        "textureSteps": steps,
        "targetFaceCount": faces,
        "textureSize": size,
    }


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": _preset(512, 512, 8, 10_000, 1024),
    "balanced": _preset(1024, 512, 10, 20_000, 1024),
    "high": _preset(1536, 1024, 12, 100_000, 2048),
}
MIN_DEGREES = 3.15
"""An angle from here on cannot be in radians, which end at π."""


def _angle(value: float) -> float:
    if math.pi < value < MIN_DEGREES:
        message = "must be above 0 and at most π (or, in degrees, 3.15 to 180)"
        raise PydanticCustomError("angle", message, {"nearest": math.pi})
    return value


ANGLES: dict[str, JsonValue] = {
    "type": "number",
    "anyOf": [{"exclusiveMinimum": 0, "maximum": math.pi}, {"minimum": MIN_DEGREES, "maximum": 180}],
}
Angle = Annotated[float, Field(gt=0, le=180, json_schema_extra={ALLOWED: ANGLES}), AfterValidator(_angle), PLAIN]
Steps = Annotated[int, Field(ge=1, le=50), WHOLE]


class TrellisGenerateInput(TaskInput):
    """What `trellis.generate` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES["trellis.generate"]})

    source_image: ImageReference | None = Field(
        None, description="The object's picture; required, as this or as sourceImageUrl."
    )
    source_image_url: MediaUrl | None = Field(None, description="The URL-only name of sourceImage.")
    quality_preset: Literal["fast", "balanced", "high"] = Field(
        "balanced",
        description="Mesh and texture resolution, steps of each stage, faces, texture size. "
        + " ".join(
            f"{name}: {each['meshResolution']} and {each['textureResolution']}, {each['shapeSteps']}, "
            f"{each['targetFaceCount']}, {each['textureSize']}."
            for name, each in PRESETS.items()
        )
        + " Fields that are given count before the preset's, which inputAdjustments says where they differ.",
    )
    target_face_count: Annotated[int, Field(ge=500, le=500_000), WHOLE] | None = Field(
        None, description="Triangles of the mesh; the preset's when absent.", examples=[20000]
    )
    texture_size: Annotated[Literal[512, 1024, 2048, 4096], WHOLE] | None = Field(
        None,
        description="Pixels of each side of the texture; the preset's when absent. Above 2048 the price is half again as "
        "high.",
        examples=[1024],
    )
    texture_resolution: Annotated[Literal[512, 1024], WHOLE] | None = Field(
        None, description="Voxels of each side of the texture's grid; the preset's when absent.", examples=[512]
    )
    mesh_resolution: Annotated[Literal[512, 1024, 1536], WHOLE] | None = Field(
        None,
        description="Voxels of each side of the shape's grid, by which the price goes; the preset's when absent.",
        examples=[1024],
    )
    max_views: Annotated[int, Field(ge=1, le=8), WHOLE] = Field(
        4, description="The most views of the object that condition a sampling step."
    )
    sparse_structure_steps: Steps | None = Field(
        None,
        description="Sampling steps of the coarse structure; the preset's when absent. The price grows with the sum of "
        "the three counts of steps above 36.",
        examples=[10],
    )
    shape_steps: Steps | None = Field(
        None, description="Sampling steps of the shape; the preset's when absent.", examples=[10]
    )
    texture_steps: Steps | None = Field(
        None, description="Sampling steps of the texture; the preset's when absent.", examples=[10]
    )
    remesh_fill_holes: bool = Field(True, description="Close small holes.")
    remesh_fill_holes_max_perimeter: Annotated[float, Field(ge=0, le=1), PLAIN] = Field(
        0.05, description="The longest perimeter of a hole to close, in units of the object's bounding cube."
    )
    mesh_cluster_cone_half_angle_rad: Angle = Field(
        math.pi / 2,
        description="How far the normals of a texture chart may lean, in radians up to π. From 3.15 to 180 it is read as "
        "degrees, which inputAdjustments then says.",
        examples=[0.959931],
    )
    postprocess_normal_crease_deg: Annotated[float, Field(ge=0, le=180), PLAIN] = Field(
        60, description="Degrees; edges sharper than this keep a crease in the normals."
    )
    postprocess_position_epsilon: Annotated[float, Field(ge=0, le=0.01), PLAIN] = Field(
        1e-6, description="Vertices nearer than this are welded, in units of the object's bounding cube."
    )


class TrellisGenerate(Task[TrellisGenerateInput]):
    """The task `trellis.generate`."""

    name = "trellis.generate"
    title = "Generate a 3D model"
    model = "Trellis 2"
    output = "mesh"
    Input = TrellisGenerateInput

    def complete(self, given: TrellisGenerateInput, findings: Findings) -> dict[str, Any]:
        """The preset fills what was not given, and an angle in degrees becomes radians."""
        names = given.given()
        effective = given.model_dump(exclude={"seed"})
        if canonical(effective, names, findings, "sourceImage", "sourceImageUrl") is None:
            findings.refuse("sourceImage", "is required, as a URL or inline (or give sourceImageUrl)")
        findings.fill(effective, names, given.quality_preset, PRESETS[given.quality_preset])
        angle = given.mesh_cluster_cone_half_angle_rad
        if angle > math.pi:
            radians = effective["meshClusterConeHalfAngleRad"] = math.radians(angle)
            findings.adjust("meshClusterConeHalfAngleRad", angle, radians, "degrees to radians")
        return effective

    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """The mesh engine."""
        return ("trellis",)

    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """TRELLIS.2 takes 3, 17 and 60 s on an H100 for its three resolutions with 12 steps each (its README).

        The mesh tail took 6.3 s for 20 000 faces at 1024 pixels and 43 s for 100 000 at 2048 on 2 cores.
        """
        sampled = {512: 3.0, 1024: 17.0, 1536: 60.0}[effective_input["meshResolution"]]
        return 2.0 + sampled * steps(effective_input) / 36 + 4e-4 * float(effective_input["targetFaceCount"])


def steps(effective_input: Mapping[str, Any]) -> int:
    """Sampling steps of the three stages together."""
    return int(sum(effective_input[name] for name in ("sparseStructureSteps", "shapeSteps", "textureSteps")))
