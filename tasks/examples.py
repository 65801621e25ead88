"""The inputs of the public documentation, as examples of each task's schema; inline pictures are one pixel."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PIXEL_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
PIXEL_WEBP = "UklGRh4AAABXRUJQVlA4TBEAAAAvAAAAAAdQjyJXq/+BiOh/AAA="

EXAMPLES: Mapping[str, list[Any]] = MappingProxyType(
    {
        "image.generate": [
            {
                "prompt": "cinematic fox astronaut",
                "width": 1024,
                "height": 1024,
            },
            {
                "prompt": "cinematic fox astronaut",
                "width": 1536,
                "height": 1024,
                "referenceImages": [
                    "https://cdn.example.com/input/style-ref.webp",
                    {"dataBase64": PIXEL_PNG, "mimeType": "image/png"},
                ],
            },
        ],
        "image.edit": [
            {
                "prompt": "turn this scene into a dramatic noir poster",
                "sourceImage": "https://cdn.example.com/input/source.jpg",
                "referenceImages": [
                    "https://cdn.example.com/input/style-ref.webp",
                    {"dataBase64": PIXEL_WEBP, "mimeType": "image/webp"},
                ],
            },
        ],
        "video.generate": [
            {
                "prompt": "slow cinematic push-in with floating particles",
                "startFrameImage": {"dataBase64": PIXEL_PNG, "mimeType": "image/png"},
                "finalFrameImage": "https://cdn.example.com/input/final-frame.webp",
                "durationSeconds": 6,
                "width": 1920,
                "height": 1088,
                "interpolationFps": 60,
            },
            {
                "prompt": "single continuous cinematic flythrough over a neon city at dawn",
                "durationSeconds": 6,
                "width": 1920,
                "height": 1088,
                "interpolationFps": 0,
            },
            {
                "prompt": ("Single continuous hero shot with restrained camera motion and strong identity retention."),
                "startFrameImageUrl": "https://cdn.example.com/input/start-frame.webp",
                "durationSeconds": 6,
                "width": 2048,
                "height": 1152,
                "extremeQuality": True,
            },
            {
                "prompt": (
                    "image-to-video shot anchored to the supplied start frame for a direct-to-camera "
                    "dialogue or singing line. keep the performance synced to the provided reference "
                    "audio from start to finish. honor the frame-zero composition from the supplied "
                    "start frame and keep the same subject count, identity, wardrobe, and environment "
                    "family. favor restrained camera behavior; prefer locked framing, a very gentle "
                    "push, or a tiny lateral drift, with subject motion carrying the shot more than "
                    "the camera. keep the subject readable whenever the face is foregrounded. let "
                    "mouth articulation, jaw travel, breath timing, shoulder rhythm, and phrase-timed "
                    "gestures carry the sync. start moving immediately. keep lip sync faithful to the "
                    "supplied reference audio, with mouth shapes and breath timing driven by that "
                    "phrase. keep one continuous shot with stable anatomy and coherent motion."
                ),
                "startFrameImageUrl": "https://cdn.example.com/input/start-frame.webp",
                "finalFrameImageUrl": "https://cdn.example.com/input/final-frame.webp",
                "referenceAudioUrl": "https://cdn.example.com/input/reference-track.opus",
                "durationSeconds": 6,
                "width": 1920,
                "height": 1088,
                "interpolationFps": 60,
            },
            {
                "prompt": (
                    "image-to-video shot anchored to the supplied start frame for a direct-to-camera "
                    "dialogue continuation. keep the performance synced to the provided reference "
                    "audio from start to finish. honor the frame-zero composition from the supplied "
                    "start frame and keep the same subject count, identity, wardrobe, and environment "
                    "family. favor restrained camera behavior; prefer locked framing, a very gentle "
                    "push, or a tiny lateral drift, with subject motion carrying the shot more than "
                    "the camera. keep the subject readable whenever the face is foregrounded. let "
                    "mouth articulation, jaw travel, breath timing, shoulder rhythm, and phrase-timed "
                    "gestures carry the sync. start moving immediately. keep lip sync faithful to the "
                    "supplied reference audio, with mouth shapes and breath timing driven by that "
                    "phrase. keep one continuous shot with stable anatomy, coherent motion, and "
                    "preserved white balance, skin tone, exposure, contrast, saturation, and "
                    "background palette."
                ),
                "overlapFrameImageUrls": [
                    "https://cdn.example.com/input/clip-a-last-03.webp",
                    "https://cdn.example.com/input/clip-a-last-02.webp",
                    "https://cdn.example.com/input/clip-a-last-01.webp",
                ],
                "referenceAudioUrl": "https://cdn.example.com/input/dialogue-half-b.opus",
                "durationFrames": 257,
                "width": 1280,
                "height": 1280,
                "sampledFps": 25,
                "interpolationFps": 60,
                "seed": 424242,
            },
        ],
        "video.combine": [
            {
                "videoUrls": [
                    "https://cdn.example.com/output/clip-a.mp4",
                    "https://cdn.example.com/output/clip-b.mp4",
                ],
                "overlapFrames": 3,
                "frameRate": 60,
            },
        ],
        "audio.speak": [
            {
                "text": "We launch at dawn, hold formation, and bring everyone home safely.",
                "voiceDescription": (
                    "Warm confident narrator with balanced pacing, stable projection, and natural emphasis."
                ),
                "language": "English",
                "quality": "128k",
                "seed": 123456,
            },
            {
                "mode": "voice_clone",
                "text": ("Keep the same character voice, but deliver this line with calm authority and clean pacing."),
                "referenceAudioUrl": "https://cdn.example.com/input/rin-voice-sample.opus",
                "referenceTranscript": "Rin keeps her voice low. She measures every word before it lands.",
                "referenceAudioMaxSeconds": 6,
                "maxNewTokens": 384,
                "language": "English",
                "quality": "128k",
                "seed": 424242,
            },
        ],
        "audio.annotation.reference": [
            {
                "sourceAudioUrl": "https://cdn.example.com/input/country-heart-edit.mp3",
                "transcript": (
                    "[Intro]\nBoots on the porch and a laptop glow,\nI mint an A P I key before the roosters crow."
                ),
                "language": "en",
                "transcriptionModel": "distil-large-v3",
                "device": "auto",
            },
        ],
        "ace.step.create": [
            {
                "tags": (
                    "anthemic ace step electro-pop, wide stereo synths, tight sidechained bass, punchy "
                    "drum transients, strong vocal hooks, modern polished mix"
                ),
                "lyrics": (
                    "[Intro]\nNeon rain on the avenue\n\n[Verse]\nWe were shadows in a crowded room\n"
                    "Now the skyline sings our names\n\n[Pre-Chorus]\nHands up, hearts up, hold the "
                    "line\n\n[Chorus]\nWe run through the midnight light\nTurn the static into fire "
                    "tonight\n\n[Bridge]\nStrip it down, then build it higher\n\n[Final Chorus]\nWe "
                    "run through the midnight light"
                ),
                "qualityPreset": "high_quality",
                "durationSeconds": 108,
                "quality": "192k",
                "language": "en",
            },
        ],
        "moss.sound.effect": [
            {
                "prompt": ("A sharp pistol shot in a dry canyon with a quick mechanical click and short tail echo."),
                "durationSeconds": 2,
                "quality": "128k",
                "topK": 50,
                "maxNewTokens": 1024,
            },
        ],
        "trellis.generate": [
            {
                "sourceImageUrl": "https://cdn.example.com/input/boat_ref.png",
                "qualityPreset": "balanced",
                "targetFaceCount": 20000,
                "textureSize": 1024,
                "textureResolution": 512,
                "maxViews": 4,
                "sparseStructureSteps": 10,
                "shapeSteps": 10,
                "textureSteps": 10,
                "meshResolution": 1024,
                "remeshFillHoles": True,
                "remeshFillHolesMaxPerimeter": 0.05,
                "meshClusterConeHalfAngleRad": 55,
            },
        ],
    }
)
"""Inputs by task."""
