"""What bodies, queries and answers have in common, and the scalars of the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel
from starlette.responses import Response

from core.clock import rfc3339
from tasks.fields import InputModel, Text

Instant = Annotated[
    datetime,
    PlainSerializer(rfc3339),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-23T10:00:00.123Z"]}),
]
"""An instant: RFC 3339 in UTC with milliseconds."""

Usd = Annotated[str, Field(pattern=r"^-?[0-9]+\.[0-9]{6}$", examples=["0.165888"])]
"""Dollars with six decimal places."""

Micros = Annotated[int, Field(description="Micro-dollars: 1 USD is 1 000 000.")]
"""Micro-dollars."""


class Query(InputModel):
    """A query string; every value arrives as text."""

    model_config = ConfigDict(strict=False)


class WriteBody(InputModel):
    """The body of a write; a retry with the same key does nothing twice."""

    idempotency_key: Annotated[Text, Field(min_length=1, max_length=255)] | None = Field(
        None, description="The same as the header X-Idempotency-Key, which is the usual place."
    )


class Answer(BaseModel):
    """A response body. Only the fields that were given appear in it; a field given as None appears as null."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True, frozen=True)
    also_as: ClassVar[tuple[str, ...]] = ()
    """Media types besides JSON in which it comes, when asked for."""

    def as_json(self) -> dict[str, Any]:
        """The body as JSON values."""
        return self.model_dump(mode="json", exclude_unset=True)

    def text(self) -> str:
        """The body."""
        return self.model_dump_json(exclude_unset=True)

    def response(self, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        """The answer."""
        return json_response(self.text(), status, headers)


def json_response(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer whose body is this JSON."""
    return Response(text, status, headers, media_type="application/json")
