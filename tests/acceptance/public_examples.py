"""The media requests of the public documentation, and by hand what each must become and cost.

`public_bodies.json` holds every JSON body of the documentation as it stands there, in its order. Only placeholders are
filled in: `<base64-or-data-uri>` with a real picture, `cdn.example.com` with a local server.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

CDN = "https://cdn.example.com"
PLACEHOLDER = "<base64-or-data-uri>"
BODIES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("public_bodies.json").read_text("utf-8"))
JOBS = "/api/v1/media/jobs"


def _picture(image_format: str, colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, image_format)
    return file.getvalue()


PICTURES = {"image/png": _picture("PNG", "orange"), "image/webp": _picture("WEBP", "navy")}


def shown(mime_type: str) -> dict[str, Any]:
    """An inline picture as an effective input shows it."""
    content = PICTURES[mime_type]
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "mimeType": mime_type}


def filled(value: Any, cdn: str, *, data_uri: bool = False) -> Any:
    """`value` with its placeholders filled in, inline pictures as base64 or as data URIs."""
    match value:
        case {"dataBase64": str(given), "mimeType": str(mime_type)} if given == PLACEHOLDER:
            encoded = base64.b64encode(PICTURES[mime_type]).decode()
            text = f"data:{mime_type};base64,{encoded}" if data_uri else encoded
            return {"dataBase64": text, "mimeType": mime_type}
        case dict():
            return {key: filled(each, cdn, data_uri=data_uri) for key, each in value.items()}
        case list():
            return [filled(each, cdn, data_uri=data_uri) for each in value]
        case str():
            return value.replace(CDN, cdn)
        case _:
            return value


@dataclass(frozen=True)
class Example:
    """A request of the documentation: where its body stands in `BODIES`, its price, and what is filled in.

    `effective` is the whole effective input but for the fields that the body has under the same name and value, which
    are in `same`; `adjusted` are the fields that are adjusted.
    """

    number: int
    task: str
    micros: int
    same: tuple[str, ...]
    effective: dict[str, Any]
    adjusted: tuple[str, ...] = ()

    @property
    def body(self) -> dict[str, Any]:
        """As in the documentation."""
        found: dict[str, Any] = BODIES[self.number]["body"]
        return found

    @property
    def headers(self) -> dict[str, str]:
        """Those besides the credential and the content type."""
        found: dict[str, str] = BODIES[self.number]["headers"]
        return found

    def expected(self, cdn: str) -> dict[str, Any]:
        """The effective input, without a seed that is drawn."""
        kept = {name: self.body["input"][name] for name in self.same}
        found: dict[str, Any] = filled({**self.effective, **kept}, cdn)
        return found


_IMAGE = {"negativePrompt": "", "outputFormat": "webp", "highDetail": False}
_VIDEO = {
    "negativePrompt": "",
    "startFrameImage": None,
    "finalFrameImage": None,
    "overlapFrameImages": None,
    "referenceAudio": None,
    "durationFrames": None,
    "durationSeconds": None,
    "sampledFps": 30,
    "interpolationFps": 60,
    "extremeQuality": False,
}
_SIZE = ("prompt", "width", "height")

EXAMPLES = (
    # 1024 × 1024 = 1.048576 MP; × $0.02 = $0.02097152
    Example(0, "image.generate", 20_972, _SIZE, {**_IMAGE, "referenceImages": []}),
    # 1536 × 1024 = 1.572864 MP; × $0.02 = $0.03145728; reference images are free
    Example(
        12,
        "image.generate",
        31_457,
        _SIZE,
        {**_IMAGE, "referenceImages": [f"{CDN}/input/style-ref.webp", shown("image/png")]},
    ),
    # One edited image at $0.03
    Example(
        13,
        "image.edit",
        30_000,
        ("prompt", "sourceImage"),
        {
            "outputFormat": "webp",
            "highDetail": False,
            "referenceImages": [f"{CDN}/input/style-ref.webp", shown("image/webp")],
        },
    ),
    # 6 s × 30 = 180 frames, up to 8 × 23 + 1 = 185. 1920 × 1088 = 2.08896 MP; × 185 = 386.4576; × $0.0012 = $0.46374912
    Example(
        14,
        "video.generate",
        463_749,
        (*_SIZE, "durationSeconds", "finalFrameImage", "interpolationFps"),
        {**_VIDEO, "startFrameImage": shown("image/png")},
        ("durationSeconds",),
    ),
    # The same size and length without a picture: the same $0.46374912
    Example(
        15,
        "video.generate",
        463_749,
        (*_SIZE, "durationSeconds"),
        {**_VIDEO, "interpolationFps": 0},
        ("durationSeconds",),
    ),
    # 2048 × 1152 = 2.359296 MP; × 185 = 436.46976; × $0.0012 = $0.523763712; × 1.5 = $0.785645568
    Example(
        16,
        "video.generate",
        785_646,
        (*_SIZE, "durationSeconds", "extremeQuality"),
        {**_VIDEO, "startFrameImage": f"{CDN}/input/start-frame.webp"},
        ("durationSeconds",),
    ),
    # $0.46374912 as above; × 1.25 with reference audio = $0.5796864
    Example(
        17,
        "video.generate",
        579_686,
        (*_SIZE, "durationSeconds"),
        {
            **_VIDEO,
            "startFrameImage": f"{CDN}/input/start-frame.webp",
            "finalFrameImage": f"{CDN}/input/final-frame.webp",
            "referenceAudio": f"{CDN}/input/reference-track.opus",
        },
        ("durationSeconds",),
    ),
    # 257 = 8 × 32 + 1 frames, the 3 of overlap among them. 1280 × 1280 = 1.6384 MP; × 257 = 421.0688;
    # × $0.0012 = $0.50528256; × 1.25 = $0.6316032
    Example(
        18,
        "video.generate",
        631_603,
        (*_SIZE, "durationFrames", "sampledFps", "seed"),
        {
            **_VIDEO,
            "overlapFrameImages": [f"{CDN}/input/clip-a-last-{number}.webp" for number in ("03", "02", "01")],
            "referenceAudio": f"{CDN}/input/dialogue-half-b.opus",
        },
    ),
    # 2 clips × $0.005
    Example(19, "video.combine", 10_000, ("videoUrls", "overlapFrames", "frameRate"), {"overlapFps": 60}),
    # 66 characters ÷ 15 = 4.4 s: above 3 s, at most 7 s
    Example(
        20,
        "audio.speak",
        20_000,
        ("text", "voiceDescription", "language", "quality", "seed"),
        {
            "mode": "describe",
            "outputFormat": "opus",
            "maxNewTokens": 2048,
            "referenceAudio": None,
            "referenceTranscript": None,
            "referenceAudioMaxSeconds": None,
        },
    ),
    # 90 characters ÷ 15 = 6 s: above 3 s, at most 7 s
    Example(
        21,
        "audio.speak",
        20_000,
        (
            *("mode", "text", "referenceTranscript", "referenceAudioMaxSeconds", "maxNewTokens", "language", "quality"),
            "seed",
        ),
        {
            "voiceDescription": None,
            "outputFormat": "opus",
            "referenceAudio": f"{CDN}/input/rin-voice-sample.opus",
        },
    ),
    # 83 characters without [Intro] and with single spaces, ÷ 12 = 6.9 s: the 60 s band
    Example(
        22,
        "audio.annotation.reference",
        30_000,
        ("transcript", "language", "transcriptionModel", "device"),
        {"sourceAudio": f"{CDN}/input/country-heart-edit.mp3", "sourceDurationSeconds": None},
    ),
    # 108 s × 192 kbit/s = 20 736; × $0.000008 = $0.165888, above $0.05
    Example(
        23,
        "ace.step.create",
        165_888,
        ("tags", "lyrics", "qualityPreset", "durationSeconds", "quality", "language"),
        {"outputFormat": "opus"},
    ),
    # 2 s × $0.004 = $0.008; 1024 tokens × $0.000008 = $0.008192; together $0.016192, above $0.01
    Example(
        24,
        "moss.sound.effect",
        16_192,
        ("prompt", "durationSeconds", "quality", "topK", "maxNewTokens"),
        {"outputFormat": "opus"},
    ),
    # meshResolution 1024: $0.20; a texture of 1024 and 10 + 10 + 10 = 30 steps add nothing. 55° = 0.9599310885968813 rad
    Example(
        25,
        "trellis.generate",
        200_000,
        (
            *("qualityPreset", "targetFaceCount", "textureSize", "textureResolution", "meshResolution", "maxViews"),
            *("sparseStructureSteps", "shapeSteps", "textureSteps", "remeshFillHoles", "remeshFillHolesMaxPerimeter"),
        ),
        {
            "sourceImage": f"{CDN}/input/boat_ref.png",
            "meshClusterConeHalfAngleRad": 0.9599310885968813,
            "postprocessNormalCreaseDeg": 60,
            "postprocessPositionEpsilon": 1e-06,
        },
        ("meshClusterConeHalfAngleRad",),
    ),
    # The first one again, with its key also in the body: $0.02097152
    Example(26, "image.generate", 20_972, _SIZE, {**_IMAGE, "referenceImages": []}),
)
