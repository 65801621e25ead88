"""How media are named in an input: by URL or inline, and in which formats they come and go."""

from __future__ import annotations

import binascii
import re
from typing import Annotated, Any, Literal
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
from pydantic_core import PydanticCustomError

from tasks.fields import InputModel, Text
from tasks.validation import INLINE_TAG, URL_TAG

MAX_URL_CHARACTERS = 2048
MAX_IMAGE_BYTES = 30_000_000
"""Largest image, decoded from base64 or fetched."""

_DATA_URI = re.compile(r"data:(?P<mime>[^;,]*)(?:;[^;,]*)*?;base64,", re.IGNORECASE)
_MAX_HEADER = 256
_URL_PATTERN = r"^[Hh][Tt][Tt][Pp][Ss]?://\S+$"
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
    return text


MediaUrl = Annotated[
    Text,
    AfterValidator(_http_url),
    Field(
        max_length=MAX_URL_CHARACTERS,
        description="An http or https URL; fetched when the job runs.",
        json_schema_extra={"format": "uri", "pattern": _URL_PATTERN},
    ),
]
"""An http or https URL, fetched when the job runs."""


def _data_uri(text: str) -> re.Match[str] | None:
    return _DATA_URI.match(text, 0, _MAX_HEADER)


def decode_inline(data_base64: str) -> bytes:
    """The bytes inside `dataBase64`: base64, or a data URI that holds base64; line breaks are ignored.

    Raises:
        ValueError: neither of the two.
    """
    header = _data_uri(data_base64)
    if header is None and data_base64[:5].lower() == "data:":
        raise ValueError("a data URI must say ;base64, before its data")
    encoded = data_base64[header.end() :] if header else data_base64
    return binascii.a2b_base64("".join(encoded.split()), strict_mode=True)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


ImageMimeType = Annotated[Literal["image/png", "image/jpeg", "image/jpg", "image/webp"], BeforeValidator(_lower)]


class InlineImage(InputModel):
    """The bytes of an image: PNG, JPEG or WebP."""

    model_config = ConfigDict(json_schema_extra={"required": ["dataBase64"]})

    data_base64: str = Field(
        description="Base64, or a data URI that holds base64.",
        json_schema_extra={"contentEncoding": "base64"},
        min_length=1,
    )
    mime_type: ImageMimeType = Field(description="May be left out when dataBase64 is a data URI that gives it.")

    @model_validator(mode="before")
    @classmethod
    def _mime_type_of_the_data_uri(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("mimeType") is None and isinstance(data.get("dataBase64"), str):
            header = _data_uri(data["dataBase64"])
            if header and header["mime"]:
                return {**data, "mimeType": header["mime"]}
        return data

    @field_validator("data_base64")
    @classmethod
    def _decodes(cls, text: str) -> str:
        try:
            size = len(decode_inline(text))
        except ValueError:
            raise PydanticCustomError(
                "base64_form", "must be base64 (the standard alphabet, padded) or a data URI with ;base64,"
            ) from None
        if size == 0:
            raise PydanticCustomError("base64_empty", "holds no bytes")
        if size > MAX_IMAGE_BYTES:
            raise PydanticCustomError("base64_size", f"must hold at most {MAX_IMAGE_BYTES} bytes, not {size}")
        return text


def _form(value: Any) -> str | None:
    return URL_TAG if isinstance(value, str) else INLINE_TAG if isinstance(value, dict | InlineImage) else None


ImageReference = Annotated[
    Annotated[MediaUrl, Tag(URL_TAG)] | Annotated[InlineImage, Tag(INLINE_TAG)],
    Discriminator(
        _form,
        custom_error_type="media_form",
        custom_error_message="must be a URL string or an object {dataBase64, mimeType}",
    ),
]
"""An image by URL or inline."""

ImageFormat = Annotated[
    Literal["webp", "png", "jpg", "jpeg"], AfterValidator(lambda name: "jpg" if name == "jpeg" else name)
]
"""A format an image can be delivered in; `jpeg` is another name of `jpg`."""
