"""The price book: every rate there is, under one version, validated when it is loaded."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from importlib import resources
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

_PLAIN_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,12})?")


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
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, serialize_by_alias=True)


class ImageGenerateRates(_Strict):
    """Rates of `image.generate`: dollars per 1 000 000 pixels, the least for one picture, the factor of highDetail."""

    usd_per_megapixel: Usd
    minimum_usd: Least
    high_detail_factor: Factor


class PriceBook(_Strict):
    """One version of all prices. Equal versions must hold equal rates; PostgreSQL keeps each as a jsonb row."""

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    image_generate: Annotated[ImageGenerateRates, Field(alias="image.generate")]

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
