"""How media are named in an input: by URL or inline, under one name or another, and in which formats they come and go."""

from __future__ import annotations

import binascii
import io
import re
from collections.abc import Mapping, Set
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from media import kinds
from tasks.base import Findings
from tasks.fields import InputModel, Text
from tasks.long_text import LongText
from tasks.validation import INLINE_TAG, URL_TAG

MAX_URL_CHARACTERS = 2048
MAX_IMAGE_BYTES = kinds.MAX_BYTES["image"]
"""Largest image, decoded from base64 or fetched."""
MAX_AUDIO_BYTES = kinds.MAX_BYTES["audio"]
"""Largest audio file, decoded from base64 or fetched."""
MAX_VIDEO_BYTES = kinds.MAX_BYTES["video"]
"""Largest video, fetched; no video comes inline."""
MAX_REFERENCES = 4

_DATA_URI = re.compile(r"data:(?P<mime>[^;,]*)(?:;[^;,]*)*?;base64,", re.IGNORECASE)
_MAX_HEADER = 256
_URL_PATTERN = r"^[Hh][Tt][Tt][Pp][Ss]?://\S+$"
_SPACE = b" \t\r\n\v\f"
_SPACE_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f]")


def _http_url(text: str) -> str:
    if text[:5].lower() == "data:":
        raise PydanticCustomError("url_data", "is no URL to fetch: send inline media as {dataBase64, mimeType}")
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or _SPACE_OR_CONTROL.search(text):
        raise PydanticCustomError("url_form", "must be a URL that begins with http:// or https:// and names a host")
    if "@" in parts.netloc:
        raise PydanticCustomError("url_credentials", "must carry no user name or password: give a URL that needs none")
    return text


MediaUrl = Annotated[
    Text,
    AfterValidator(_http_url),
    Field(
        max_length=MAX_URL_CHARACTERS,
        description="An http or https URL without a user name or password; fetched when the job runs.",
        json_schema_extra={"pattern": _URL_PATTERN},
    ),
]
"""An http or https URL, fetched when the job runs."""


def _data_uri(text: str) -> re.Match[str] | None:
    return _DATA_URI.match(text, 0, _MAX_HEADER)


def decode_inline(data_base64: str | LongText) -> bytes:
    """The bytes inside `dataBase64`: base64, or a data URI that holds base64; white space is ignored.

    A `LongText` is decoded piece by piece, so that other threads go on meanwhile.

    Raises:
        ValueError: neither of the two.
    """
    content, pending = io.BytesIO(), b""
    for number, piece in enumerate([data_base64] if isinstance(data_base64, str) else data_base64.pieces()):
        header = None if number else _data_uri(piece)
        if number == 0 and header is None and piece[:5].lower() == "data:":
            raise ValueError("a data URI must say ;base64, before its data")
        encoded = pending + piece[header.end() if header else 0 :].encode("ascii").translate(None, _SPACE)
        # The last group waits for what follows: only the end may be padded.
        whole = max(0, (len(encoded) - 1) // 4 * 4)
        ready, pending = encoded[:whole], encoded[whole:]
        if ready.endswith(b"="):
            raise ValueError("something follows the padding")
        content.write(binascii.a2b_base64(ready, strict_mode=True))
    content.write(binascii.a2b_base64(pending, strict_mode=True))
    return content.getvalue()


def _essence(value: object) -> object:
    return value.partition(";")[0].strip().lower() if isinstance(value, str) else value


ESSENCE = BeforeValidator(_essence)
"""Around the MIME types of a field: case and parameters (`audio/webm;codecs=opus`) do not count."""


class InlineMedia(InputModel):
    """The bytes of a file, in the request itself."""

    model_config = ConfigDict(json_schema_extra={"required": ["dataBase64"]}, defer_build=True)
    max_bytes: ClassVar[int]

    data_base64: bytes = Field(
        description="Base64, or a data URI that holds base64.",
        json_schema_extra={"contentEncoding": "base64", "minLength": 1},
    )

    @model_validator(mode="before")
    @classmethod
    def _mime_type_of_the_data_uri(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("mimeType") is None:
            text = data.get("dataBase64")
            header = _data_uri(text.head if isinstance(text, LongText) else text if isinstance(text, str) else "")
            if header and header["mime"]:
                return {**data, "mimeType": header["mime"]}
        return data

    @field_validator("data_base64", mode="before", json_schema_input_type=str)
    @classmethod
    def _decoded(cls, text: object) -> object:
        """The bytes, which is what the field holds from here on; bytes stay as they are."""
        if not isinstance(text, str | LongText | bytes):
            raise PydanticKnownError("string_type")
        if text == "":
            raise PydanticKnownError("string_too_short", {"min_length": 1})
        try:
            content = text if isinstance(text, bytes) else decode_inline(text)
        except ValueError:
            raise PydanticCustomError(
                "base64_form", "must be base64 (the standard alphabet, padded) or a data URI with ;base64,"
            ) from None
        if not content:
            raise PydanticCustomError("base64_empty", "holds no bytes")
        if len(content) > cls.max_bytes:
            raise PydanticCustomError("base64_size", f"must hold at most {cls.max_bytes} bytes, not {len(content)}")
        return content


class InlineImage(InlineMedia):
    """The bytes of an image: PNG, JPEG or WebP, at most 30 MB."""

    max_bytes = MAX_IMAGE_BYTES

    mime_type: Annotated[Literal["image/png", "image/jpeg", "image/jpg", "image/webp"], ESSENCE] = Field(
        description="May be left out when dataBase64 is a data URI that gives it."
    )


class InlineAudio(InlineMedia):
    """The bytes of an audio file: Ogg, Opus, WAV, MP3, FLAC, AAC, MP4 or WebM, at most 50 MB."""

    max_bytes = MAX_AUDIO_BYTES

    mime_type: Annotated[
        Literal[
            "audio/ogg",
            "audio/opus",
            "audio/wav",
            "audio/x-wav",
            "audio/wave",
            "audio/mpeg",
            "audio/mp3",
            "audio/flac",
            "audio/x-flac",
            "audio/aac",
            "audio/mp4",
            "audio/webm",
        ],
        ESSENCE,
    ] = Field(description="May be left out when dataBase64 is a data URI that gives it.")


def _form(value: Any) -> str | None:
    return URL_TAG if isinstance(value, str) else INLINE_TAG if isinstance(value, dict | InlineMedia) else None


_EITHER = Discriminator(
    _form,
    custom_error_type="media_form",
    custom_error_message="must be a URL string or an object {dataBase64, mimeType}",
)

ImageReference = Annotated[Annotated[MediaUrl, Tag(URL_TAG)] | Annotated[InlineImage, Tag(INLINE_TAG)], _EITHER]
"""An image by URL or inline."""

AudioReference = Annotated[Annotated[MediaUrl, Tag(URL_TAG)] | Annotated[InlineAudio, Tag(INLINE_TAG)], _EITHER]
"""An audio file by URL or inline."""

ImageReferences = Annotated[list[ImageReference], Field(max_length=MAX_REFERENCES)]
ImageReferenceUrls = Annotated[list[MediaUrl], Field(max_length=MAX_REFERENCES, json_schema_extra={"deprecated": True})]

ImageFormat = Annotated[
    Literal["webp", "png", "jpg", "jpeg"], AfterValidator(lambda name: "jpg" if name == "jpeg" else name)
]
"""A format an image can be delivered in; `jpeg` is another name of `jpg`."""

AudioFormat = Literal["opus", "mp3", "wav", "flac", "aac"]
"""A format an audio file can be delivered in."""

Quality = Literal["64k", "96k", "128k", "192k", "256k", "320k"]
"""Bits a second of a lossy audio format."""


def kbps(quality: str) -> int:
    """The number in a `Quality`: thousands of bits a second."""
    return int(quality.removesuffix("k"))


def canonical(effective: dict[str, Any], given: Set[str], findings: Findings, name: str, *others: str) -> str | None:
    """Leave one of several names for the same media in `effective`: `name`, whatever the caller called it.

    Returns the name that the caller used, or None if none; two of them at once are refused, each naming the other.
    """
    used = [each for each in (name, *others) if each in given]
    for each in used if len(used) > 1 else ():
        rest = " and ".join(f"`{other}`" for other in used if other != each)
        findings.refuse(each, f"cannot stand beside {rest}: give one of them")
    values = {other: effective.pop(other) for other in others}
    if not used:
        return None
    effective[name] = values.get(used[0], effective[name])
    return used[0]


def is_jpeg(reference: str | Mapping[str, Any]) -> bool:
    """Whether a media reference says that it is a JPEG, by its MIME type or by the end of its URL's path."""
    if isinstance(reference, str):
        return urlsplit(reference).path.lower().endswith((".jpg", ".jpeg"))
    return reference["mimeType"] in ("image/jpeg", "image/jpg")
