"""The price book: every rate there is, under one version, validated when it is loaded."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from importlib import resources
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

_PLAIN_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,12})?")


SHIPPED = frozenset({"2026-11-1", "2026-11-2"})
"""Versions that came with this software; an operator's own book has another."""


class PriceBookInvalid(ValueError):
    """A price book that cannot be used; the message names every fault and its place."""


def _decimal(value: object) -> Decimal:
    if isinstance(value, str) and _PLAIN_DECIMAL.fullmatch(value):
        return Decimal(value)
    raise ValueError('write it as a quoted plain decimal such as "0.02"')


Usd = Annotated[Decimal, BeforeValidator(_decimal)]
"""Dollars, zero or more, with at most twelve decimal places."""
Least = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=Decimal("0.000001"))]
"""Dollars, a micro-dollar at least: nothing is free, because nothing cannot be held."""
Factor = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=1)]
"""A multiplier of a price, never below one: an extra never makes a job cheaper."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, serialize_by_alias=True, defer_build=True)


class _Rising(_Strict):
    """Rates of which the fields named in `rising` must not fall from one to the next: more work never costs less."""

    rising: ClassVar[tuple[str, ...]]

    @model_validator(mode="after")
    def _never_falls(self) -> Self:
        for lower, higher in pairwise(self.rising):
            if getattr(self, lower) > getattr(self, higher):
                raise ValueError(f"{higher} is below {lower}: more work must not cost less")
        return self


class ImageGenerateRates(_Strict):
    """Rates of `image.generate`: dollars per 1 000 000 pixels, the least for one picture, the factor of highDetail."""

    usd_per_megapixel: Usd
    minimum_usd: Least
    high_detail_factor: Factor


class ImageEditRates(_Strict):
    """Rates of `image.edit`: dollars per picture, the factor of highDetail."""

    usd_per_image: Least
    high_detail_factor: Factor


class VideoGenerateRates(_Strict):
    """Rates of `video.generate`: dollars per 1 000 000 pixels of a sampled frame, the least for one clip, factors."""

    usd_per_megapixel_frame: Usd
    minimum_usd: Least
    reference_audio_factor: Factor
    extreme_quality_factor: Factor


class VideoCombineRates(_Strict):
    """Rates of `video.combine`: dollars per input clip."""

    usd_per_clip: Least


class AudioSpeakRates(_Rising):
    """Rates of `audio.speak`: dollars by estimated seconds, and per started 3 s above 10 s."""

    rising = ("usd_to_3_s", "usd_to_7_s", "usd_to_10_s")

    usd_to_3_s: Least
    usd_to_7_s: Least
    usd_to_10_s: Least
    usd_per_further_3_s: Usd


class AudioAnnotationReferenceRates(_Rising):
    """Rates of `audio.annotation.reference`: dollars by band of seconds, and per started 60 s above 180 s."""

    rising = ("usd_to_60_s", "usd_to_120_s", "usd_to_180_s")

    usd_to_60_s: Least
    usd_to_120_s: Least
    usd_to_180_s: Least
    usd_per_further_60_s: Usd


class AceStepCreateRates(_Strict):
    """Rates of `ace.step.create`: dollars per second and 1000 bits a second, the least for one piece."""

    usd_per_second_and_kbps: Usd
    minimum_usd: Least


class MossSoundEffectRates(_Strict):
    """Rates of `moss.sound.effect`: dollars per second and per token allowed, the least for one sound."""

    usd_per_second: Usd
    usd_per_token: Usd
    minimum_usd: Least


class TrellisGenerateRates(_Rising):
    """Rates of `trellis.generate`: dollars by mesh resolution, the factor of a texture above 2048 pixels."""

    rising = ("usd_at_512", "usd_at_1024", "usd_at_1536")

    usd_at_512: Least
    usd_at_1024: Least
    usd_at_1536: Least
    large_texture_factor: Factor


class PriceBook(_Strict):
    """One version of all prices. Equal versions must hold equal rates; PostgreSQL keeps each as a jsonb row."""

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    image_generate: Annotated[ImageGenerateRates, Field(alias="image.generate")]
    image_edit: Annotated[ImageEditRates, Field(alias="image.edit")]
    video_generate: Annotated[VideoGenerateRates, Field(alias="video.generate")]
    video_combine: Annotated[VideoCombineRates, Field(alias="video.combine")]
    audio_speak: Annotated[AudioSpeakRates, Field(alias="audio.speak")]
    audio_annotation_reference: Annotated[AudioAnnotationReferenceRates, Field(alias="audio.annotation.reference")]
    ace_step_create: Annotated[AceStepCreateRates, Field(alias="ace.step.create")]
    moss_sound_effect: Annotated[MossSoundEffectRates, Field(alias="moss.sound.effect")]
    trellis_generate: Annotated[TrellisGenerateRates, Field(alias="trellis.generate")]

    @classmethod
    def parse(cls, toml_text: str) -> PriceBook:
        """The book that an operator wrote.

        Raises:
            PriceBookInvalid: no TOML, an unknown key, a missing one, or a rate that is no quoted decimal.
        """
        try:
            content = tomllib.loads(toml_text)
        except tomllib.TOMLDecodeError as error:
            raise PriceBookInvalid(f"the price book is no valid TOML: {error}") from None
        return cls.from_json(content)

    @classmethod
    def built_in(cls) -> PriceBook:
        """The book that ships with this package."""
        return cls.parse(resources.files("pricing").joinpath("book.toml").read_text("utf-8"))

    def as_json(self) -> dict[str, Any]:
        """The book as a JSON object; rates are decimal strings."""
        return self.model_dump(mode="json")

    @classmethod
    def from_row(cls, content: Mapping[str, Any]) -> PriceBook:
        """The book that a row holds. One from before a task existed has the built-in rates of that task.

        Raises:
            PriceBookInvalid: as for `from_json`.
        """
        return cls.from_json({**cls.built_in().as_json(), **content})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PriceBook:
        """The book that `as_json` gave.

        Raises:
            PriceBookInvalid: an unknown key, a missing one, or a rate that is no decimal string.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            faults = [
                f"{' › '.join(map(str, each['loc'])) or 'book'}: {each['msg']}"
                for each in error.errors(include_url=False, include_input=False)
            ]
            raise PriceBookInvalid("the price book cannot be used: " + "; ".join(faults)) from None
